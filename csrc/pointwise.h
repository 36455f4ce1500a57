#pragma once
// The ops of family 1. A loss becomes
//
//   loss                   (inputs, reduction, options) -> loss
//   loss_backward          (grad, inputs, options, target_grad, count) -> (grad_input, grad_target)
//   loss_double_backward   (h?, k?, grad, inputs, options) -> (grad_grad, grad_input, grad_target)
//
// inputs are input, target, weight? and, where the loss has one, pos_weight?; h and k are the cotangents of grad_input
// and grad_target. Derivatives know no reduction: grad has the input's shape and dtype, or is one number of the compute
// type, which a mean has divided already, or divides by `count`. A reduced loss is of the compute type, too.
//
// Everything here is compiled once, over what PointLossInfo tells of a loss and over the loops that a device gives:
//
//   Device::pointwise<L, order>(PointArgs)      for every element, with the jet of L(x, t) and c = factor g w / count
//     order 0   out[0] = w L                                        (or its sum)
//     order 1   out[0] = c L_x
//     order 2   out[0] = c L_x, out[1] = c L_t
//     order 3   out[0] = w (h L_x + k L_t)                          (or its sum)
//               out[1] = c (h L_xx + k L_xt), out[2] = c (h L_xt + k L_tt)
#include "losses.h"
#include "tensor.h"

namespace torchloss {

// One number per element. Without data it is the constant `fill`, or an output that nobody reads.
struct PointStream {
  void* data = nullptr;
  double fill = 0;
  Layout layout;
};

constexpr int kMaxPointOptions = 4;

struct PointArgs {
  ScalarType dtype;  // of every stream
  int64_t n;
  PointStream x, t, w, p, g, h, k, out[3];
  double options[kMaxPointOptions];
  const void* factor = nullptr;  // a number of the compute type, or nullptr: 1
  void* sum = nullptr;           // where the sum of out[0] goes, as the compute type, if it is summed
  double count = 1;              // what the sum is divided by; of a gradient, c
  int device = -1;
};

// Gives false where an input or a target was outside the loss's domain and the device tells.
using PointRun = bool (*)(const PointArgs&);

// What the ops need to know of a loss.
struct PointLossInfo {
  const char* name;
  bool pos_weight;
  int options;
  const char* option_names;  // with spaces between them
  const double* defaults;
};

// Whether a loss takes a weight of the positive class.
template <template <class> class L>
constexpr bool has_pos_weight = requires(L<float> l) { l(1.f, 1.f, 1.f); };
template <template <class> class L>
constexpr bool has_domain = requires { L<float>::outside(1.f, 1.f); };

template <template <class> class L>
struct PointInfo {
  using Options = typename L<float>::Options;
  static constexpr int options = std::is_empty_v<Options> ? 0 : sizeof(Options) / sizeof(double);
  static_assert(options <= kMaxPointOptions);

  static inline const Options defaults{};
  static inline const PointLossInfo info{L<float>::name, has_pos_weight<L>, options, L<float>::option_names,
                                         reinterpret_cast<const double*>(&defaults)};
};

template <template <class> class L, class T>
HD L<T> make_loss(const PointArgs& args) {
  if constexpr (std::is_empty_v<typename L<T>::Options>) {
    return {};
  } else {
    typename L<T>::Options options;
    std::memcpy(&options, args.options, sizeof(options));
    return L<T>(options);
  }
}

template <template <class> class L, class T>
HD Jet<T> jet(const L<T>& loss, T x, T t, T p) {
  if constexpr (has_pos_weight<L>)
    return loss(x, t, p);
  else
    return loss(x, t);
}

// The arguments that every op of a loss has, as they come from the stack and, checked, as a loop wants them.
class PointCall {
  static constexpr int64_t max_dims = 64;
  int64_t order[max_dims];  // of the dimensions, so that a loop reads the input as it lies in memory
  bool input_is_run = true;

 public:
  const PointLossInfo& loss;
  Tensor input, target, weight, pos_weight, grad, h, k;
  PointArgs args;

  explicit PointCall(const PointLossInfo& loss) : loss(loss) {}

  void read_inputs(Arguments& a) {
    input = a.tensor(), target = a.tensor(), weight = a.maybe_tensor();
    if (loss.pos_weight) pos_weight = a.maybe_tensor();
  }
  void read_options(Arguments& a) {
    for (int i = 0; i < loss.options; ++i) args.options[i] = a.number();
  }

  Check check() {
    const Check check(loss.name, input);
    check.like_input(target, "target");
    check.maybe_like_input(weight, "weight");
    check.maybe_like_input(pos_weight, "pos_weight");
    STD_TORCH_CHECK(input.dim <= max_dims, loss.name, ": expected at most ", max_dims, " dimensions");
    input_is_run = input.contiguous();
    if (!input_is_run) {
      for (int64_t d = 0; d < input.dim; ++d) order[d] = d;
      std::stable_sort(order, order + input.dim,
                       [&](int64_t a, int64_t b) { return input.stride[a] > input.stride[b]; });
    }
    args.dtype = input.dtype, args.n = input.numel, args.device = input.device;
    args.x = stream(input), args.t = stream(target);
    args.w = stream_or(weight, 1), args.p = stream_or(pos_weight, 1);
    return check;
  }
  // And the gradient from above: says whether it is one number.
  bool check_grad(const Check& check) {
    const bool one = grad.dim == 0 && (input.dim > 0 || grad.dtype != input.dtype);
    args.g.fill = 1;
    if (one) {
      check.tensor(grad, "grad", compute(), nullptr, 0);
      args.factor = grad.data;
    } else {
      check.like_input(grad, "grad");
      args.g = stream(grad);
    }
    return one;
  }

  ScalarType compute() const { return compute_type(input.dtype); }

  PointStream stream(const Tensor& t) {
    PointStream s;
    if (t.numel == 0) return s;
    s.data = t.data;
    if (!input_is_run) {
      s.layout = Layout::of(t, order, t.dim);
    } else if (t.contiguous()) {
      s.layout.add_outer(t.numel, 1);
    } else {
      for (int64_t d = t.dim - 1; d >= 0; --d) s.layout.add_outer(t.size[d], t.stride[d]);
    }
    return s;
  }
  PointStream stream_or(const Tensor& t, double fill) {
    if (t) return stream(t);
    PointStream s;
    s.fill = fill;
    return s;
  }
  // The place of out[0]: one number, or a tensor like the input.
  template <class Device>
  Tensor value(bool summed) {
    if (!summed) return map<Device>(0);
    Tensor sum = new_number(input, compute());
    args.sum = sum.data;
    return sum;
  }
  template <class Device>
  Tensor map(int i) {
    Tensor t = fresh_like<Device>(input);
    args.out[i] = stream(t);
    return t;
  }
};

template <class Device>
struct PointOps {
  // The loops, by order.
  using Kernels = const PointRun (&)[4];

  static void forward(const PointLossInfo& info, Kernels kernels, StableIValue* stack) {
    PointCall call(info);
    Arguments a(stack);
    call.read_inputs(a);
    const int64_t reduction = a.integer();
    call.read_options(a);
    const Check check = call.check();
    check.reduction(reduction);
    const double n = static_cast<double>(call.input.numel);
    if (reduction == Mean || reduction == MeanOrZero) call.args.count = reduction == Mean ? n : std::max(n, 1.0);
    Tensor loss = call.value<Device>(reduction != None);
    STD_TORCH_CHECK(kernels[0](call.args), "all elements of input and target should be between 0 and 1");
    give(stack, loss);
  }

  static void backward(const PointLossInfo& info, Kernels kernels, StableIValue* stack) {
    PointCall call(info);
    Arguments a(stack);
    call.grad = a.tensor(), call.read_inputs(a), call.read_options(a);
    const bool target_grad = a.boolean();
    call.args.count = a.number();
    call.check_grad(call.check());
    Tensor grad_input = call.map<Device>(0), grad_target;
    grad_target = target_grad ? call.map<Device>(1) : none_of(call.input);
    kernels[target_grad ? 2 : 1](call.args);
    give(stack, grad_input, grad_target);
  }

  static void double_backward(const PointLossInfo& info, Kernels kernels, StableIValue* stack) {
    PointCall call(info);
    Arguments a(stack);
    call.h = a.maybe_tensor(), call.k = a.maybe_tensor(), call.grad = a.tensor();
    call.read_inputs(a), call.read_options(a);
    const Check check = call.check();
    const bool one = call.check_grad(check);
    check.maybe_like_input(call.h, "the gradient of grad_input");
    check.maybe_like_input(call.k, "the gradient of grad_target");
    call.args.h = call.stream_or(call.h, 0), call.args.k = call.stream_or(call.k, 0);
    Tensor grad_grad = call.value<Device>(one), grad_input = call.map<Device>(1), grad_target = call.map<Device>(2);
    kernels[3](call.args);
    give(stack, grad_grad, grad_input, grad_target);
  }
};

template <class Device, template <class> class L>
struct PointLoss {
  static constexpr PointRun kernels[] = {Device::template pointwise<L, 0>, Device::template pointwise<L, 1>,
                                         Device::template pointwise<L, 2>, Device::template pointwise<L, 3>};
  template <auto op>
  static void boxed(StableIValue* stack, uint64_t, uint64_t) {
    op(PointInfo<L>::info, kernels, stack);
  }
  static void register_ops(Library& m) {
    using Ops = PointOps<Device>;
    const std::string name = L<float>::name;
    m.impl(name.c_str(), boxed<Ops::forward>);
    m.impl((name + "_backward").c_str(), boxed<Ops::backward>);
    m.impl((name + "_double_backward").c_str(), boxed<Ops::double_backward>);
  }
};

}  // namespace torchloss
