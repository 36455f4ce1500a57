#pragma once
// The ops of family 1 over one loop that a device gives:
//
//   Device::pointwise<L, order>(PointArgs)      for every element, with the jet of L(x, t) and c = g w
//     order 0   out[0] = w L                                        (or its sum)
//     order 1   out[0] = c L_x
//     order 2   out[0] = c L_x, out[1] = c L_t
//     order 3   out[0] = w (h L_x + k L_t)                          (or its sum)
//               out[1] = c (h L_xx + k L_xt), out[2] = c (h L_xt + k L_tt)
//
// Every reduction is one of these: a mean is a sum with c = g / n. One signature for every loss of the family:
//   loss                   (input, target, weight?, pos_weight?, reduction, parameter) -> loss
//   loss_backward          (grad, input, ..., target_grad) -> (grad_input, grad_target)
//   loss_double_backward   (h?, k?, grad, input, ...) -> (grad_grad, grad_input, grad_target)
#include "losses.h"
#include "tensor.h"

namespace torchloss {

// One number per element. Without data it is the constant `fill`, or an output that nobody reads.
struct PointStream {
  void* data = nullptr;
  double fill = 0;
  Layout layout;
};

struct PointArgs {
  ScalarType dtype;
  int64_t n;
  PointStream x, t, w, p, g, h, k, out[3];
  double parameter, scale = 1;  // of the mean: 1 / n
  void* sum = nullptr;          // where the sum of out[0] goes, if it is summed
  int device = -1;
};

// The number type of the losses that take a weight of the positive class.
template <template <class> class L>
constexpr bool has_pos_weight = requires(L<float> l) { l(1.f, 1.f, 1.f); };
template <template <class> class L>
constexpr bool has_domain = requires { L<float>::outside(1.f, 1.f); };
template <template <class> class L>
constexpr bool has_parameter = requires(L<float> l) { L<float>{1.f}; };

template <template <class> class L, class T>
HD L<T> make_loss(double parameter) {
  if constexpr (has_parameter<L>)
    return L<T>{T(static_cast<Scalar<T>>(parameter))};
  else
    return L<T>{};
}

template <template <class> class L, class T>
HD Jet<T> jet(const L<T>& loss, T x, T t, T p) {
  if constexpr (has_pos_weight<L>)
    return loss(x, t, p);
  else
    return loss(x, t);
}

template <class Device, template <class> class L>
struct PointLoss {
  static constexpr const char* name = L<float>::op.name;

  struct Call {
    Check check;
    PointArgs args;
    Sizes shape, order;  // of the dimensions: so that the input is read as it lies in memory
    int64_t reduction;

    Call(const Tensor& input, const Tensor& target, const MaybeTensor& weight, const MaybeTensor& pos_weight,
         int64_t reduction, double parameter)
        : check(name, input), shape(sizes(input)), reduction(reduction) {
      check.reduction(reduction);
      check.tensor(target, "target", shape);
      check.tensor(weight, "weight", shape);
      check.tensor(pos_weight, "pos_weight", shape);
      STD_TORCH_CHECK(!pos_weight || has_pos_weight<L>, name, ": expected no pos_weight");
      for (size_t d = 0; d < shape.size(); ++d) order.push_back(d);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return input.stride(a) > input.stride(b); });
      args.dtype = input.scalar_type(), args.n = input.numel(), args.parameter = parameter;
      args.device = input.get_device_index();
      if (reduction == Mean) args.scale = 1.0 / static_cast<double>(args.n);
      args.x = stream(input), args.t = stream(target), args.w = stream(weight, 1), args.p = stream(pos_weight, 1);
    }
    PointStream stream(const Tensor& t) const { return {args.n ? t.data_ptr() : nullptr, 0, Layout::of(t, order)}; }
    PointStream stream(const MaybeTensor& t, double fill) const {
      return t ? stream(*t) : PointStream{nullptr, fill, {}};
    }

    void grad(const Tensor& grad) {
      check.tensor(grad, "grad", reduction == None ? shape : Sizes{});
      args.g = reduction == None ? stream(grad) : PointStream{grad.data_ptr(), 0, {}};
    }
    // The place of out[0]: a tensor like the input, or one number.
    Tensor value() {
      if (reduction == None) return map(0);
      Tensor loss = new_tensor(check.input, {}, args.dtype);
      args.sum = loss.mutable_data_ptr();
      return loss;
    }
    Tensor map(int k) {
      Tensor out = fresh_like<Device>(check.input);
      args.out[k] = stream(out);
      return out;
    }
  };

  static Tensor forward(Tensor input, Tensor target, MaybeTensor weight, MaybeTensor pos_weight, int64_t reduction,
                        double parameter) {
    Call call(input, target, weight, pos_weight, reduction, parameter);
    Tensor loss = call.value();
    const bool valid = Device::template pointwise<L, 0>(call.args);
    STD_TORCH_CHECK(valid, "all elements of input and target should be between 0 and 1");
    return loss;
  }

  static std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor input, Tensor target, MaybeTensor weight,
                                             MaybeTensor pos_weight, int64_t reduction, double parameter,
                                             bool target_grad) {
    Call call(input, target, weight, pos_weight, reduction, parameter);
    call.grad(grad);
    Tensor grad_input = call.map(0), grad_target = target_grad ? call.map(1) : none_of(input);
    if (target_grad)
      Device::template pointwise<L, 2>(call.args);
    else
      Device::template pointwise<L, 1>(call.args);
    return {grad_input, grad_target};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(MaybeTensor h, MaybeTensor k, Tensor grad, Tensor input,
                                                            Tensor target, MaybeTensor weight, MaybeTensor pos_weight,
                                                            int64_t reduction, double parameter) {
    Call call(input, target, weight, pos_weight, reduction, parameter);
    call.grad(grad);
    call.check.tensor(h, "the gradient of grad_input", call.shape);
    call.check.tensor(k, "the gradient of grad_target", call.shape);
    call.args.h = call.stream(h, 0), call.args.k = call.stream(k, 0);
    Tensor grad_grad = call.value(), grad_input = call.map(1), grad_target = call.map(2);
    Device::template pointwise<L, 3>(call.args);
    return {grad_grad, grad_input, grad_target};
  }
};

}  // namespace torchloss
