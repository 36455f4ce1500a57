#pragma once
// The ops of family 2. A loss becomes
//
//   loss                   (inputs, config) -> (loss, saved, total)
//   loss_backward          (grad, inputs, saved, config, target_grad) -> (grad_input, grad_target)
//   loss_double_backward   (h?, k?, grad, inputs, saved, config) -> (grad_grad, grad_input, grad_target)
//   loss_with_gradient     (inputs, row_weight?, normalizer?, config) -> (loss, saved, total, grad_input)
//   loss_with_gradient_    the same, with the gradient over the input
//   loss_backward_into     (grad_input!, grad, inputs, saved, row_weight?, total?, config, holds_gradient)
//
// inputs are input and, where the loss has them, target and weight; config is dim and, where the loss has them,
// ignore_index, reduction and the loss's options; h and k are the cotangents of grad_input and grad_target. `loss` and
// every `grad` are of the compute type: a reduction, or one number per row (per value and row, for a loss of several
// values). `total` is what a mean has divided by. Derivatives know no mean: their grad is divided already; but for
// loss_backward_into, which divides as loss_with_gradient does. Where grad_input holds_gradient, which is that of a
// grad of 1, and grad is 1, nothing is to do, and nobody has to wait for the device to know it.
//
// Everything here is compiled once, over what RowLossInfo tells of a loss and over the kernels that a device gives:
//
//   Device::rows<Kernel>(RowArgs)   the kernel of losses/*.h over every row: streams in and out, saved numbers, values;
//                                   and what RowResults asks for
//   Device::finish(RowArgs)         what RowResults asks for, alone
//   Device::normalizer(...)         writes a number of any dtype and device as the total
//   Device::check_targets(RowArgs)  raises for a target out of range, where that is an error
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

// What a loss's Params become on their way to a kernel.
struct RowParams {
  static constexpr size_t size = 4 * sizeof(double);
  alignas(double) unsigned char bytes[size] = {};

  template <class P>
  void set(const P& params) {
    static_assert(sizeof(P) <= size && std::is_trivially_copyable_v<P>);
    std::memcpy(bytes, &params, sizeof(P));
  }
  template <class P>
  HD void get(P& params) const {
    std::memcpy(&params, bytes, sizeof(P));
  }
};

// What becomes of all rows together; pointers to numbers of the compute type, or nullptr.
struct RowResults {
  void* loss = nullptr;           // the values' sum, or
  bool mean = false;              // that divided by the total weight
  void* total = nullptr;          // where the total weight is put, once counted;
  bool or_one = false;            // 1 where it is 0, so that the mean of nothing is 0
  const void* divisor = nullptr;  // the total weight, known already
  bool normalized = false;        // it is a normalizer: the quotient is that of the rounded sum
};

constexpr int kMaxStreams = 5, kMaxOutputs = 2;

struct RowArgs {
  const char* op = nullptr;
  ScalarType dtype;  // of every stream and of weight
  int64_t rows = 0, classes = 0;
  RowStream in[kMaxStreams], out[kMaxOutputs];
  // For losses of class indices. Today a target counts, or is ignored; out of [0, classes) it is an error, or makes its
  // row NaN. (One that lies in another rank's classes would be a third state.)
  const int64_t* target = nullptr;
  int64_t ignore_index = -100;
  const void* weight = nullptr;  // one per class, or nullptr: 1
  int64_t weight_stride = 0;
  // The rest is of the compute type.
  const void* row_weight = nullptr;  // a factor for each row, or nullptr: 1
  // The cotangent of value k of row r: grad[k * grad_value_stride + r * grad_stride], or 1 without a grad; times the
  // row's weight, and divided by *total if there is one.
  const void* grad = nullptr;
  int64_t grad_stride = 0, grad_value_stride = 0;
  const void* total = nullptr;
  bool unless_one = false;         // nothing is to do if *grad is 1
  const void* saved_in = nullptr;  // [saved][rows]
  void* saved_out = nullptr;
  void* values = nullptr;  // [values][rows]
  double softcap = 0;      // the logits are softcap tanh(x / softcap); 0: they are as they are
  RowParams params;
  RowResults results;
  int device = -1;
};

constexpr int kMaxOptions = 8;
using RowRun = void (*)(const RowArgs&);

// The kernels of a loss on a device; nullptr for those that it has not.
struct RowKernels {
  RowRun forward, backward, backward_both, double_backward, with_gradient;
};

// What the ops need to know of a loss.
struct RowLossInfo {
  const char* name;
  Target target;
  bool class_weights, has_ignore_index, has_reduction;
  int saved, values, options;
  const char* option_names;  // with spaces between them
  const double* defaults;
  void (*prepare)(const double* options, int64_t classes, RowArgs&);  // its params, and its softcap
};

template <class L>
constexpr int options_of = std::is_empty_v<typename L::Options> ? 0 : sizeof(typename L::Options) / sizeof(double);

template <class L>
struct RowInfo {
  using Options = typename L::Options;
  using Forward = typename L::template Forward<float>;

  static inline const Options defaults{};
  static Options options(const double* values) {
    Options o;
    if constexpr (options_of<L> > 0) std::memcpy(static_cast<void*>(&o), values, sizeof(o));
    return o;
  }
  static void prepare(const double* values, int64_t classes, RowArgs& args) {
    const Options o = options(values);
    args.params.set(L::prepare(o, classes));
    if constexpr (requires { o.softcap; }) args.softcap = o.softcap;
  }
  static_assert(options_of<L> <= kMaxOptions && Forward::saved_out <= 7 && Forward::values <= kMaxValues);

  static inline const RowLossInfo info{L::name,
                                       L::target,
                                       L::class_weights,
                                       L::target == Target::Index,
                                       Forward::values == 1,
                                       Forward::saved_out,
                                       Forward::values,
                                       options_of<L>,
                                       L::option_names,
                                       reinterpret_cast<const double*>(&defaults),
                                       prepare};
};

template <class Device, class K>
RowKernels kernels_of() {
  RowKernels kernels{Device::template rows<K::template Forward, false>,
                     Device::template rows<K::template Backward, false>, nullptr,
                     Device::template rows<K::template DoubleBackward, true>, nullptr};
  if constexpr (requires { Device::template rows<K::template BackwardBoth, false>; })
    kernels.backward_both = Device::template rows<K::template BackwardBoth, false>;
  if constexpr (requires { typename K::WithGradient; })
    kernels.with_gradient = Device::template rows<K::WithGradient::template Kernel, false>;
  return kernels;
}

// The rows of a tensor: all its dimensions but one.
struct Rows {
  static constexpr int64_t max_dims = 64;
  int64_t dim, classes, rows = 1, n = 0, dims[max_dims],
                        shape[max_dims + 1];  // shape[0] is for a count of stacked ones

  Rows(const char* op, const Tensor& t, int64_t dim) : dim(dim) {
    STD_TORCH_CHECK(dim >= 0 && dim < t.dim && t.dim <= max_dims, op, ": expected dim in [0, ", t.dim, "), not ", dim);
    classes = t.size[dim];
    for (int64_t d = 0; d < t.dim; ++d) {
      if (d == dim) continue;
      dims[n] = d, shape[++n] = t.size[d];
      STD_TORCH_CHECK(t.size[d] == 0 || rows <= INT64_MAX / t.size[d], op, ": more than 2^63 rows");
      rows *= t.size[d];
    }
  }
  RowStream stream(const Tensor& t) const {
    // The stride of a single class can be anything.
    return {t.numel > 0 ? t.data : nullptr, 0, classes > 1 ? t.stride[dim] : 1, Layout::of(t, dims, n)};
  }
  RowStream stream_or(const Tensor& t, double fill) const { return t ? stream(t) : RowStream{nullptr, fill, 0, {}}; }
};

// The arguments that every op of a loss has, as they come from the stack and, checked, as a kernel wants them.
class RowCall {
 public:
  const RowLossInfo& loss;
  Tensor input, target, weight, row_weight, normalizer, saved, grad, h, k, grad_input;
  int64_t dim = 0, ignore_index = -100, reduction = None;
  bool target_grad = false;
  double options[kMaxOptions];
  RowArgs args;

  explicit RowCall(const RowLossInfo& loss) : loss(loss) {}

  void read_inputs(Arguments& a) {
    input = a.tensor();
    if (loss.target != Target::None) target = a.tensor();
    if (loss.class_weights) weight = a.maybe_tensor();
  }
  void read_config(Arguments& a, bool with_reduction) {
    dim = a.integer();
    if (loss.has_ignore_index) ignore_index = a.integer();
    if (with_reduction && loss.has_reduction) reduction = a.integer();
    for (int i = 0; i < loss.options; ++i) options[i] = a.number();
  }

  // Checks what has been read, and prepares what all kernels need but for their streams.
  Rows check() {
    const Check check(loss.name, input);
    check.reduction(reduction);
    const Rows rows(loss.name, input, dim);
    args.op = loss.name, args.dtype = input.dtype, args.device = input.device;
    args.rows = rows.rows, args.classes = rows.classes, args.ignore_index = ignore_index;
    if (loss.target == Target::Index) {
      check.tensor(target, "target", ScalarType::Long, rows.shape + 1, rows.n);
      make_contiguous(target);
      args.target = static_cast<const int64_t*>(target.data);
    } else if (loss.target == Target::Probabilities) {
      check.like_input(target, "target");
    }
    if (weight) {
      check.tensor(weight, "weight", input.dtype, &rows.classes, 1);
      args.weight = weight.data, args.weight_stride = rows.classes > 1 ? weight.stride[0] : 1;
    }
    if (row_weight) {
      check.tensor(row_weight, "row_weight", compute(), rows.shape + 1, rows.n);
      make_contiguous(row_weight);
      args.row_weight = row_weight.data;
    }
    loss.prepare(options, rows.classes, args);
    return rows;
  }
  // And what an earlier forward pass has left, and the gradient from above: one number, or one per value and row.
  Rows check_backward() {
    Rows rows = check();
    const Check check(loss.name, input);
    rows.shape[0] = loss.saved;
    check.tensor(saved, "saved", compute(), rows.shape, rows.n + 1);
    STD_TORCH_CHECK(saved.contiguous(), loss.name, ": expected contiguous saved numbers");
    args.saved_in = saved.data;
    const bool several = loss.values > 1, one = !several && grad.dim == 0;
    rows.shape[0] = loss.values;
    check.tensor(grad, "grad", compute(), rows.shape + !several, one ? 0 : rows.n + several);
    make_contiguous(grad);
    args.grad = grad.data, args.grad_stride = !one, args.grad_value_stride = rows.rows;
    return rows;
  }

  ScalarType compute() const { return compute_type(input.dtype); }

  // The streams of the kernels: the input, further ones, the weights, the target.
  void streams(const Rows& rows, std::initializer_list<const RowStream> between = {}, const RowStream* last = nullptr) {
    RowStream* in = args.in;
    *in++ = rows.stream(input);
    for (const RowStream& s : between) *in++ = s;
    if (loss.class_weights) *in++ = {const_cast<void*>(args.weight), 1, args.weight_stride, {}};
    if (loss.target == Target::Probabilities) *in++ = rows.stream(target);
    if (last) *in++ = *last;
  }
  Tensor new_saved(Rows& rows) {
    rows.shape[0] = loss.saved;
    Tensor t = new_tensor(input, rows.shape, rows.n + 1, compute());
    args.saved_out = t.data;
    return t;
  }
  // The rows' values, as a result of their own.
  Tensor new_values(Rows& rows) {
    rows.shape[0] = loss.values;
    const bool several = loss.values > 1;
    Tensor t = new_tensor(input, rows.shape + !several, rows.n + several, compute());
    args.values = t.data;
    return t;
  }
};

template <class Device>
struct RowOps {
  using Kernels = const RowKernels& (*)(const double* options);

  // The values' place, their results, and the kernel; gives the loss.
  static Tensor evaluate(RowCall& call, Rows& rows, RowRun kernel, const Tensor& total) {
    typename Device::Scratch scratch;
    RowArgs& args = call.args;
    Tensor loss;
    if (call.reduction == None) {
      loss = call.new_values(rows);
    } else {
      args.values = scratch.reserve(call.input, rows.rows, call.compute());
      loss = new_number(call.input, call.compute());
      args.results.loss = loss.data, args.results.mean = call.reduction != Sum;
    }
    if (!args.results.divisor) args.results.total = total.data, args.results.or_one = call.reduction == MeanOrZero;
    if (rows.classes > 0) {
      kernel(args);
    } else {  // sums over no class are 0, though no softmax exists
      const int64_t bytes = element_size(call.compute()) * rows.rows;
      if (args.target) Device::check_targets(args);
      Device::zero(args.values, bytes * call.loss.values, args.device);
      if (args.saved_out) Device::zero(args.saved_out, bytes * call.loss.saved, args.device);
      Device::finish(args);
    }
    return loss;
  }

  static void forward(const RowLossInfo& info, Kernels kernels, StableIValue* stack) {
    RowCall call(info);
    Arguments a(stack);
    call.read_inputs(a), call.read_config(a, true);
    Rows rows = call.check();
    Tensor saved = call.new_saved(rows), total = new_number(call.input, call.compute());
    call.streams(rows);
    Tensor loss = evaluate(call, rows, kernels(call.options).forward, total);
    give(stack, loss, saved, total);
  }

  static void with_gradient(const RowLossInfo& info, Kernels kernels, StableIValue* stack, bool over_input) {
    RowCall call(info);
    Arguments a(stack);
    call.read_inputs(a);
    call.row_weight = a.maybe_tensor(), call.normalizer = a.maybe_tensor();
    call.read_config(a, true);
    Rows rows = call.check();
    RowArgs& args = call.args;
    STD_TORCH_CHECK(call.reduction != None, info.name,
                    ": expected a reduction; a loss for each row has no one gradient");
    if (over_input) writable(call, call.input, "input");
    Tensor saved = call.new_saved(rows), total = new_number(call.input, call.compute());
    if (call.normalizer) {
      STD_TORCH_CHECK(call.normalizer.defined() && call.normalizer.dim == 0 && call.reduction == Mean, info.name,
                      ": expected a normalizer without dimensions, and reduction 1");
      const ScalarType type = call.normalizer.dtype;
      STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
                          type == ScalarType::BFloat16 || type == ScalarType::Long || type == ScalarType::Int,
                      info.name, ": expected a normalizer of a floating-point dtype, int64 or int32");
      Check(info.name, call.input).storage(call.normalizer, "normalizer");
      Device::normalizer(args, call.normalizer, total.data);
      args.results.normalized = true;
    } else {
      args.results.total = total.data, args.results.or_one = call.reduction == MeanOrZero;
      Device::finish(args);
      args.results.total = nullptr;
    }
    args.results.divisor = total.data;
    if (call.reduction != Sum) args.total = total.data;
    Tensor made;
    if (!over_input) made = fresh_like<Device>(call.input);
    call.streams(rows);
    args.out[0] = rows.stream(over_input ? call.input : made);
    Tensor loss = evaluate(call, rows, kernels(call.options).with_gradient, total);
    if (over_input)
      give(stack, loss, saved, total);
    else
      give(stack, loss, saved, total, made);
  }

  static void backward(const RowLossInfo& info, Kernels kernels, StableIValue* stack) {
    RowCall call(info);
    Arguments a(stack);
    read_backward(call, a);
    call.target_grad = a.boolean();
    const Rows rows = call.check_backward();
    STD_TORCH_CHECK(!call.target_grad || info.target == Target::Probabilities, info.name,
                    ": the target has no gradient");
    call.streams(rows);
    Tensor grad_input = fresh_like<Device>(call.input), grad_target;
    grad_target = call.target_grad ? fresh_like<Device>(call.target) : none_of(call.input);
    call.args.out[0] = rows.stream(grad_input);
    if (call.target_grad) call.args.out[1] = rows.stream(grad_target);
    const RowKernels& k = kernels(call.options);
    if (rows.classes > 0)
      (call.target_grad ? k.backward_both : k.backward)(call.args);
    else if (call.args.target)
      Device::check_targets(call.args);
    give(stack, grad_input, grad_target);
  }

  // The gradient into a tensor that is there and shares no memory with another, or is the input itself: a loop may
  // write a class when it has read it, and the target's at the start.
  static void backward_into(const RowLossInfo& info, Kernels kernels, StableIValue* stack) {
    RowCall call(info);
    Arguments a(stack);
    call.grad_input = a.tensor();
    call.grad = a.tensor();
    call.read_inputs(a);
    call.saved = a.tensor(), call.row_weight = a.maybe_tensor();
    const Tensor total = a.maybe_tensor();
    call.read_config(a, false);
    call.args.unless_one = a.boolean();
    const Rows rows = call.check_backward();
    const Check check(info.name, call.input);
    check.like_input(call.grad_input, "grad_input");
    if (total) {
      check.tensor(total, "total", call.compute(), nullptr, 0);
      call.args.total = total.data;
    }
    STD_TORCH_CHECK((!call.args.unless_one && !total) || call.grad.dim == 0, info.name,
                    ": expected a grad of one number");
    writable(call, call.grad_input, "grad_input");
    call.streams(rows);
    call.args.out[0] = rows.stream(call.grad_input);
    if (rows.classes > 0) kernels(call.options).backward(call.args);
  }

  static void double_backward(const RowLossInfo& info, Kernels kernels, StableIValue* stack) {
    RowCall call(info);
    Arguments a(stack);
    call.h = a.maybe_tensor(), call.k = a.maybe_tensor();
    read_backward(call, a);
    Rows rows = call.check_backward();
    RowArgs& args = call.args;
    const Check check(info.name, call.input);
    check.maybe_like_input(call.h, "the gradient of grad_input");
    STD_TORCH_CHECK(!call.k || info.target == Target::Probabilities, info.name, ": the target has no gradient");
    check.maybe_like_input(call.k, "the gradient of grad_target");
    STD_TORCH_CHECK(args.softcap == 0, info.name, ": expected softcap 0; second derivatives take capped logits");
    const bool floating = info.target == Target::Probabilities;
    const RowStream k = rows.stream_or(call.k, 0);
    call.streams(rows, {rows.stream_or(call.h, 0)}, floating ? &k : nullptr);
    Tensor grad_input = fresh_like<Device>(call.input), grad_target, grad_grad;
    grad_target = floating ? fresh_like<Device>(call.target) : none_of(call.input);
    args.out[0] = rows.stream(grad_input);
    if (floating) args.out[1] = rows.stream(grad_target);
    call.reduction = args.grad_stride ? None : Sum;  // one number of a gradient from above was given to every row
    const Tensor total = new_number(call.input, call.compute());
    grad_grad = evaluate(call, rows, kernels(call.options).double_backward, total);
    give(stack, grad_grad, grad_input, grad_target);
  }

 private:
  static void read_backward(RowCall& call, Arguments& a) {
    call.grad = a.tensor();
    call.read_inputs(a);
    call.saved = a.tensor();
    call.read_config(a, false);
  }
  // Raises before anything is lost.
  static void writable(const RowCall& call, const Tensor& t, const char* name) {
    const char* op = call.loss.name;
    STD_TORCH_CHECK(!t.overlaps(), op, ": cannot write to ", name, ": several of its elements share a place in memory");
    const auto [begin, end] = t.extent();
    for (const Tensor* read : {&call.input, &call.target, &call.weight, &call.row_weight, &call.saved, &call.grad}) {
      if (read == &t || !*read || (read == &call.input && read->is_at(t))) continue;
      const auto [first, last] = read->extent();
      STD_TORCH_CHECK(last <= begin || end <= first, op, ": cannot write to ", name,
                      ": it shares memory with another argument");
    }
    if (call.args.target) Device::check_targets(call.args);
  }
};

template <class Device, class L>
struct RowLoss {
  template <class K>
  static const RowKernels& of() {
    static const RowKernels kernels = kernels_of<Device, K>();
    return kernels;
  }
  // Those without a scale are the CPU's alone: on a GPU the product is hidden behind the memory.
  template <class... K>
  static const RowKernels& first(const typename L::Options& o, Kernels<K...>) {
    const RowKernels* kernels = nullptr;
    const auto take = [&]<class Set>(Set*) {
      if constexpr (Device::shows_scale || HasScale<typename Set::Params>)
        if (!kernels && Set::takes(o)) kernels = &of<Set>();
    };
    (take(static_cast<K*>(nullptr)), ...);
    return kernels ? *kernels : of<L>();
  }
  static const RowKernels& kernels(const double* options) {
    if constexpr (requires { typename L::Special; })
      return first(RowInfo<L>::options(options), typename L::Special{});
    else
      return of<L>();
  }
  template <auto op, auto... more>
  static void boxed(StableIValue* stack, uint64_t, uint64_t) {
    op(RowInfo<L>::info, kernels, stack, more...);
  }
  static void register_ops(Library& m) {
    using Ops = RowOps<Device>;
    const std::string name = L::name;
    m.impl(name.c_str(), boxed<Ops::forward>);
    m.impl((name + "_backward").c_str(), boxed<Ops::backward>);
    m.impl((name + "_double_backward").c_str(), boxed<Ops::double_backward>);
    if constexpr (requires { typename L::WithGradient; }) {
      m.impl((name + "_with_gradient").c_str(), boxed<Ops::with_gradient, false>);
      m.impl((name + "_with_gradient_").c_str(), boxed<Ops::with_gradient, true>);
      m.impl((name + "_backward_into").c_str(), boxed<Ops::backward_into>);
    }
  }
};

// softmax and log_softmax: a row in, a row out.
//   map (input, dim) -> output;  map_backward (grad, output, dim) -> grad_input;
//   map_double_backward (h, grad, output, dim) -> (grad_grad, grad_output)
template <class Device, class L>
struct RowMap {
  // Checks the tensors, of which the last decides on sizes, and makes n results.
  template <template <class> class Kernel, size_t n_in, size_t n_out, bool rare = false>
  static void run(StableIValue* stack, const char* const (&names)[n_in]) {
    Arguments a(stack);
    Tensor in[n_in], out[n_out];
    for (Tensor& t : in) t = a.tensor();
    const int64_t dim = a.integer();
    const Tensor& like = in[n_in - 1];
    const Check check(L::name, like);
    const Rows rows(L::name, like, dim);
    RowArgs args;
    args.op = L::name, args.dtype = like.dtype, args.device = like.device;
    args.rows = rows.rows, args.classes = rows.classes;
    for (size_t i = 0; i < n_in; ++i) {
      if (i + 1 < n_in) check.like_input(in[i], names[i]);
      args.in[i] = rows.stream(in[i]);
    }
    for (size_t i = 0; i < n_out; ++i) {
      out[i] = fresh_like<Device>(like);
      args.out[i] = rows.stream(out[i]);
    }
    if (rows.classes > 0) Device::template rows<Kernel, rare>(args);
    if constexpr (n_out == 1)
      give(stack, out[0]);
    else
      give(stack, out[0], out[1]);
  }
  static void forward(StableIValue* stack, uint64_t, uint64_t) { run<L::template Forward, 1, 1>(stack, {"input"}); }
  static void backward(StableIValue* stack, uint64_t, uint64_t) {
    run<L::template Backward, 2, 1>(stack, {"grad", "output"});
  }
  static void double_backward(StableIValue* stack, uint64_t, uint64_t) {
    run<L::template DoubleBackward, 3, 2, true>(stack, {"the gradient of grad_input", "grad", "output"});
  }
  static void register_ops(Library& m) {
    const std::string name = L::name;
    m.impl(name.c_str(), forward);
    m.impl((name + "_backward").c_str(), backward);
    m.impl((name + "_double_backward").c_str(), double_backward);
  }
};

}  // namespace torchloss
