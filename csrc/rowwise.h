#pragma once
// The ops of family 2 over loops that a device gives:
//
//   Device::rows<Kernel>(RowArgs)    the kernel of losses/*.h over every row: streams in and out, stats, values
//   Device::rows_and_totals(...)     and the rows' total weight and, if asked for, the values' sum or mean
//   Device::reduce(...)              sum of the rows' values, in a fixed order, and the total weight of the rows
//
// One signature for every loss of the family:
//   loss             (input, target?, weight?, dim, reduction, ignore_index, parameter) -> (loss, stats, total)
//   loss_backward    (grad, input, ..., stats, total, ..., target_grad) -> (grad_input, grad_target)
//   loss_double_backward   (h?, k?, grad, input, ...) -> (grad_grad, grad_input, grad_target)
// with h, k the cotangents of grad_input and grad_target. A row's value counts c = grad, or grad / total for the mean.
#include "losses.h"
#include "tensor.h"

namespace torchloss {

// One number per class for each row. Without data it is the constant `fill`.
struct RowStream {
  void* data = nullptr;
  double fill = 0;
  int64_t class_stride = 0;
  Layout rows;
};

struct RowArgs {
  const char* op = nullptr;
  ScalarType dtype;  // of every stream, of weight and of grad
  int64_t rows, classes;
  RowStream in[5], out[2];
  // of a loss of class indices; a target outside [0, classes) and not ignore_index is an error, or makes its row NaN
  const int64_t* target = nullptr;
  int64_t ignore_index = -100;
  const void* weight = nullptr;  // one per class, or nullptr: 1
  int64_t weight_stride = 0;
  // the row's scale: grad[r * grad_stride], or 1 without a grad; divided by *total if there is one
  const void* grad = nullptr;
  int64_t grad_stride = 0;
  const void* total = nullptr;
  const void* stats_in = nullptr;  // [stats][rows], of the compute type, as are these
  void* stats_out = nullptr;
  void* values = nullptr;  // [rows]
  RowParams params;
  int device = -1;
};

// The rows of a tensor: all its dimensions but one.
struct Rows {
  int64_t dim, classes, rows = 1;
  Sizes shape, dims;

  Rows(const char* op, const Tensor& t, int64_t dim) : dim(dim) {
    STD_TORCH_CHECK(dim >= 0 && dim < t.dim(), op, ": expected dim in [0, ", t.dim(), "), not ", dim);
    classes = t.size(dim);
    for (int64_t d = 0; d < t.dim(); ++d) {
      if (d == dim) continue;
      dims.push_back(d);
      shape.push_back(t.size(d));
      STD_TORCH_CHECK(t.size(d) == 0 || rows <= INT64_MAX / t.size(d), op, ": more than 2^63 rows");
      rows *= t.size(d);
    }
  }
  RowStream stream(const Tensor& t) const {
    // The stride of a single class can be anything.
    return {t.numel() > 0 ? t.data_ptr() : nullptr, 0, classes > 1 ? t.stride(dim) : 1, Layout::of(t, dims)};
  }
  RowStream stream(const MaybeTensor& t, double fill) const { return t ? stream(*t) : RowStream{nullptr, fill, 0, {}}; }
  Sizes stacked(int64_t k) const {
    Sizes s{k};
    s.insert(s.end(), shape.begin(), shape.end());
    return s;
  }
  Sizes loss_shape(int64_t reduction) const { return reduction == None ? shape : Sizes{}; }
};

template <class Device, class L>
struct RowLoss {
  struct Call {
    Check check;
    Rows rows;
    RowArgs args;
    Tensor target;  // contiguous, kept alive
    int64_t reduction;
    int streams = 0;

    Call(const Tensor& input, const MaybeTensor& target_, const MaybeTensor& weight, int64_t dim, int64_t reduction,
         int64_t ignore_index, double parameter)
        : check(L::name, input), rows(L::name, input, dim), reduction(reduction) {
      check.reduction(reduction);
      args.op = L::name, args.dtype = input.scalar_type();
      args.device = input.get_device_index();
      args.rows = rows.rows, args.classes = rows.classes, args.ignore_index = ignore_index;
      STD_TORCH_CHECK(target_.has_value() == (index_target() || L::float_target), L::name,
                      index_target() || L::float_target ? ": expected a target" : ": expected no target");
      STD_TORCH_CHECK(!weight || index_target() || L::class_weights, L::name, ": expected no weight");
      if constexpr (L::float_target) check.tensor(*target_, "target", sizes(input));
      if constexpr (index_target()) {
        check.tensor(*target_, "target", ScalarType::Long, rows.shape);
        target = torch::stable::contiguous(*target_);
        args.target = target.const_data_ptr<int64_t>();
      }
      if (weight) {
        check.tensor(*weight, "weight", {rows.classes});
        args.weight = weight->const_data_ptr(), args.weight_stride = rows.classes > 1 ? weight->stride(0) : 1;
      }
      set_parameter(parameter);
    }
    static constexpr bool index_target() { return L::template Forward<float>::targets; }

    void set_parameter(double parameter) {
      if constexpr (std::is_same_v<L, KLDivWithLogits>) args.params.scale = 1 / parameter;
      if constexpr (std::is_same_v<L, Entropy>) args.params.unit = 1 / std::log(parameter);
      args.params.smoothing = parameter;
      args.params.uniform = parameter / static_cast<double>(rows.classes);
    }
    void in(RowStream s) { args.in[streams++] = s; }
    void inputs(const Tensor& input, const MaybeTensor& target_, const MaybeTensor& weight) {
      if constexpr (L::class_weights) in({const_cast<void*>(args.weight), 1, args.weight_stride, {}});
      if constexpr (L::float_target) in(rows.stream(*target_));
    }
    ScalarType compute() const { return compute_type(args.dtype); }
    Tensor new_stats() {
      Tensor stats = new_tensor(check.input, rows.stacked(L::template Forward<float>::stats_out), compute());
      args.stats_out = stats.mutable_data_ptr();
      return stats;
    }
    Tensor new_values() { return new_tensor(check.input, rows.shape, compute()); }
    // The rows' values: a result, or the terms of one.
    void place_values(Tensor& values, typename Device::Scratch& terms) {
      if (reduction == None || rows.classes == 0) {
        values = new_values(), args.values = values.mutable_data_ptr();
      } else {
        args.values = terms.reserve(check.input, rows.rows, compute());
      }
    }

    void saved(const Tensor& grad, const Tensor& stats, const Tensor& total, Tensor& keep) {
      check.tensor(grad, "grad", rows.loss_shape(reduction));
      check.tensor(stats, "stats", compute(), rows.stacked(L::template Forward<float>::stats_out));
      check.tensor(total, "total", compute(), {});
      STD_TORCH_CHECK(stats.is_contiguous(), L::name, ": expected contiguous stats");
      keep = torch::stable::contiguous(grad);
      args.grad = keep.const_data_ptr(), args.grad_stride = reduction == None;
      args.stats_in = stats.const_data_ptr();
      if (reduction == Mean) args.total = total.const_data_ptr();
    }
  };

  using Three = std::tuple<Tensor, Tensor, Tensor>;

  static Three forward(Tensor input, MaybeTensor target, MaybeTensor weight, int64_t dim, int64_t reduction,
                       int64_t ignore_index, double parameter) {
    Call call(input, target, weight, dim, reduction, ignore_index, parameter);
    call.in(call.rows.stream(input));
    call.inputs(input, target, weight);
    Tensor stats = call.new_stats(), total = new_tensor(input, {}, call.compute()), values;
    typename Device::Scratch terms;
    return {value(call, values, terms, total.mutable_data_ptr()), stats, total};
  }
  // Runs the forward kernel, into the stats too.
  static Tensor value(Call& call, Tensor& values, typename Device::Scratch& terms, void* total) {
    call.place_values(values, terms);
    const bool sum = call.reduction != None && call.rows.classes > 0;
    Tensor loss = sum ? new_tensor(call.check.input, {}, call.args.dtype) : values;
    Device::template rows_and_totals<L::template Forward>(call.args, total, sum ? loss.mutable_data_ptr() : nullptr,
                                                          call.reduction == Mean);
    return sum ? loss : reduced(call, values, total);
  }
  // What forward gives and, for a grad of 1, the gradient, in one pass.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> forward_and_gradient(Tensor input, MaybeTensor target,
                                                                         MaybeTensor weight, int64_t dim,
                                                                         int64_t reduction, int64_t ignore_index,
                                                                         double parameter) {
    Call call(input, target, weight, dim, reduction, ignore_index, parameter);
    call.in(call.rows.stream(input));
    call.inputs(input, target, weight);
    Tensor stats = call.new_stats(), total = new_tensor(input, {}, call.compute()), values;
    Tensor grad_input = fresh_like<Device>(input);
    typename Device::Scratch terms;
    Device::total(call.args, total.mutable_data_ptr());
    if (reduction == Mean) call.args.total = total.const_data_ptr();
    call.place_values(values, terms);
    call.args.out[0] = call.rows.stream(grad_input);
    Device::template rows<L::template ForwardAndGradient>(call.args);
    return {reduced(call, values, total.const_data_ptr()), stats, total, grad_input};
  }

  static std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor input, MaybeTensor target, MaybeTensor weight,
                                             Tensor stats, Tensor total, int64_t dim, int64_t reduction,
                                             int64_t ignore_index, double parameter, bool target_grad) {
    Call call(input, target, weight, dim, reduction, ignore_index, parameter);
    Tensor keep;
    call.saved(grad, stats, total, keep);
    STD_TORCH_CHECK(!target_grad || L::float_target, L::name, ": the target has no gradient");
    call.in(call.rows.stream(input));
    call.inputs(input, target, weight);
    Tensor grad_input = fresh_like<Device>(input), grad_target = none_of(input);
    call.args.out[0] = call.rows.stream(grad_input);
    if constexpr (L::float_target) {
      if (target_grad) {
        grad_target = fresh_like<Device>(*target);
        call.args.out[1] = call.rows.stream(grad_target);
        Device::template rows<L::template BackwardBoth>(call.args);
        return {grad_input, grad_target};
      }
    }
    Device::template rows<L::template Backward>(call.args);
    return {grad_input, grad_target};
  }

  // The gradient into a tensor that is there and shares no memory with the input, or is the input itself: a loop may
  // write a class when it has read it, and the target's at the start.
  static void backward_into(Tensor grad_input, Tensor grad, Tensor input, MaybeTensor target, MaybeTensor weight,
                            Tensor stats, Tensor total, int64_t dim, int64_t reduction, int64_t ignore_index,
                            double parameter) {
    Call call(input, target, weight, dim, reduction, ignore_index, parameter);
    call.check.tensor(grad_input, "grad_input", sizes(input));
    STD_TORCH_CHECK(!overlaps(grad_input), L::name,
                    ": cannot write to a tensor of which several share a place in memory");
    Tensor keep;
    call.saved(grad, stats, total, keep);
    Device::check_targets(call.args);  // before anything is lost
    call.in(call.rows.stream(input));
    call.inputs(input, target, weight);
    call.args.out[0] = call.rows.stream(grad_input);
    Device::template rows<L::template Backward>(call.args);
  }

  static Three double_backward(MaybeTensor h, MaybeTensor k, Tensor grad, Tensor input, MaybeTensor target,
                               MaybeTensor weight, Tensor stats, Tensor total, int64_t dim, int64_t reduction,
                               int64_t ignore_index, double parameter) {
    Call call(input, target, weight, dim, reduction, ignore_index, parameter);
    Tensor keep;
    call.saved(grad, stats, total, keep);
    call.check.tensor(h, "the gradient of grad_input", sizes(input));
    STD_TORCH_CHECK(!k || L::float_target, L::name, ": the target has no gradient");
    call.check.tensor(k, "the gradient of grad_target", sizes(input));
    call.in(call.rows.stream(input));
    call.in(call.rows.stream(h, 0));
    call.inputs(input, target, weight);
    Tensor grad_input = fresh_like<Device>(input), grad_target = none_of(input);
    call.args.out[0] = call.rows.stream(grad_input);
    if constexpr (L::float_target) {
      call.in(call.rows.stream(k, 0));
      grad_target = fresh_like<Device>(*target);
      call.args.out[1] = call.rows.stream(grad_target);
    }
    Tensor values;
    typename Device::Scratch terms;
    call.place_values(values, terms);
    Device::template rows<L::template DoubleBackward>(call.args);
    return {reduced(call, values, total.const_data_ptr()), grad_input, grad_target};
  }

  // The rows' values as they are, summed, or summed and divided by the total weight.
  static Tensor reduced(const Call& call, Tensor& values, const void* total) {
    if (call.rows.classes == 0) torch::stable::zero_(values);  // a sum over no class, though no softmax exists
    if (call.reduction == None)
      return call.args.dtype == call.compute() ? values : torch::stable::to(values, call.args.dtype);
    Tensor loss = new_tensor(call.check.input, {}, call.args.dtype);
    Device::reduce(call.args, call.reduction == Mean ? total : nullptr, loss.mutable_data_ptr());
    return loss;
  }
};

// cross_entropy without label smoothing needs neither the other logits' sum nor their weights.
template <class Device>
struct CrossEntropyOps {
  using Plain = RowLoss<Device, CrossEntropy<false>>;
  using Smooth = RowLoss<Device, CrossEntropy<true>>;

  static auto forward(Tensor input, MaybeTensor target, MaybeTensor weight, int64_t dim, int64_t reduction,
                      int64_t ignore_index, double smoothing) {
    return (smoothing == 0 ? Plain::forward : Smooth::forward)(input, target, weight, dim, reduction, ignore_index,
                                                               smoothing);
  }
  static auto forward_and_gradient(Tensor input, MaybeTensor target, MaybeTensor weight, int64_t dim, int64_t reduction,
                                   int64_t ignore_index, double smoothing) {
    return (smoothing == 0 ? Plain::forward_and_gradient : Smooth::forward_and_gradient)(
        input, target, weight, dim, reduction, ignore_index, smoothing);
  }
  static auto backward(Tensor grad, Tensor input, MaybeTensor target, MaybeTensor weight, Tensor stats, Tensor total,
                       int64_t dim, int64_t reduction, int64_t ignore_index, double smoothing, bool target_grad) {
    return (smoothing == 0 ? Plain::backward : Smooth::backward)(grad, input, target, weight, stats, total, dim,
                                                                 reduction, ignore_index, smoothing, target_grad);
  }
  static void backward_into(Tensor grad_input, Tensor grad, Tensor input, MaybeTensor target, MaybeTensor weight,
                            Tensor stats, Tensor total, int64_t dim, int64_t reduction, int64_t ignore_index,
                            double smoothing) {
    (smoothing == 0 ? Plain::backward_into : Smooth::backward_into)(grad_input, grad, input, target, weight, stats,
                                                                    total, dim, reduction, ignore_index, smoothing);
  }
  static void backward_inplace(Tensor grad, Tensor input, MaybeTensor target, MaybeTensor weight, Tensor stats,
                               Tensor total, int64_t dim, int64_t reduction, int64_t ignore_index, double smoothing) {
    backward_into(input, grad, input, target, weight, stats, total, dim, reduction, ignore_index, smoothing);
  }
  static auto double_backward(MaybeTensor h, MaybeTensor k, Tensor grad, Tensor input, MaybeTensor target,
                              MaybeTensor weight, Tensor stats, Tensor total, int64_t dim, int64_t reduction,
                              int64_t ignore_index, double smoothing) {
    return (smoothing == 0 ? Plain::double_backward : Smooth::double_backward)(
        h, k, grad, input, target, weight, stats, total, dim, reduction, ignore_index, smoothing);
  }
};

// softmax and log_softmax: a row in, a row out.
//   map (input, dim) -> output;  map_backward (grad, output, dim) -> grad_input;
//   map_double_backward (h, grad, output, dim) -> (grad_grad, grad_output)
template <class Device, class L>
struct RowMap {
  static RowArgs args(const Check& check, const Rows& rows) {
    RowArgs a;
    a.dtype = check.input.scalar_type();
    a.device = check.input.get_device_index();
    a.rows = rows.classes ? rows.rows : 0, a.classes = rows.classes;  // rows of nothing: any number at no cost
    return a;
  }
  static Tensor forward(Tensor input, int64_t dim) {
    const Check check(L::name, input);
    const Rows rows(L::name, input, dim);
    Tensor output = fresh_like<Device>(input);
    RowArgs a = args(check, rows);
    a.in[0] = rows.stream(input), a.out[0] = rows.stream(output);
    Device::template rows<L::template Forward>(a);
    return output;
  }
  static Tensor backward(Tensor grad, Tensor output, int64_t dim) {
    const Check check(L::name, output);
    const Rows rows(L::name, output, dim);
    check.tensor(grad, "grad", sizes(output));
    Tensor grad_input = fresh_like<Device>(output);
    RowArgs a = args(check, rows);
    a.in[0] = rows.stream(grad), a.in[1] = rows.stream(output), a.out[0] = rows.stream(grad_input);
    Device::template rows<L::template Backward>(a);
    return grad_input;
  }
  static std::tuple<Tensor, Tensor> double_backward(Tensor h, Tensor grad, Tensor output, int64_t dim) {
    const Check check(L::name, output);
    const Rows rows(L::name, output, dim);
    check.tensor(h, "the gradient of grad_input", sizes(output));
    check.tensor(grad, "grad", sizes(output));
    Tensor grad_grad = fresh_like<Device>(output), grad_output = fresh_like<Device>(output);
    RowArgs a = args(check, rows);
    a.in[0] = rows.stream(h), a.in[1] = rows.stream(grad), a.in[2] = rows.stream(output);
    a.out[0] = rows.stream(grad_grad), a.out[1] = rows.stream(grad_output);
    Device::template rows<L::template DoubleBackward>(a);
    return {grad_grad, grad_output};
  }
};

}  // namespace torchloss
