#pragma once
// What every op needs of its arguments, on top of the stable ABI: reading them off the dispatcher's stack, checks,
// layouts and results.
//
// A small loss consists of this, so a tensor is asked for each of its properties once, and results are handed over
// without another reference.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace torchloss {

using torch::headeronly::ScalarType;

enum Reduction : int64_t {
  None,
  Mean,
  Sum,
  MeanOrZero
};  // the first three as in ATen; the last: 0, not NaN, of nothing

// The type that arithmetic on S is done in.
template <class S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

inline ScalarType compute_type(ScalarType t) { return t == ScalarType::Double ? t : ScalarType::Float; }

inline int64_t element_size(ScalarType t) {
  switch (t) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    default:
      return 2;
  }
}

template <class F>
void dispatch_floating(ScalarType t, F&& f) {
  switch (t) {
    case ScalarType::Float:
      return f.template operator()<float>();
    case ScalarType::Double:
      return f.template operator()<double>();
    case ScalarType::Half:
      return f.template operator()<torch::headeronly::Half>();
    case ScalarType::BFloat16:
      return f.template operator()<torch::headeronly::BFloat16>();
    default:
      STD_TORCH_CHECK(false, "expected a floating-point dtype, not ", torch::headeronly::toString(t));
  }
}

// Sizes or strides.
using Sizes = std::vector<int64_t>;

inline std::string text(const int64_t* sizes, int64_t n) {
  std::string s = "[";
  for (int64_t d = 0; d < n; ++d) s += (d ? ", " : "") + std::to_string(sizes[d]);
  return s + "]";
}

// The dtypes that the ops may meet; any other becomes Undefined, whose name says nothing and which no check lets pass.
inline ScalarType dtype_of_code(int32_t code) {
  static const std::pair<int32_t, ScalarType> codes[] = {{aoti_torch_dtype_float32(), ScalarType::Float},
                                                         {aoti_torch_dtype_float64(), ScalarType::Double},
                                                         {aoti_torch_dtype_bfloat16(), ScalarType::BFloat16},
                                                         {aoti_torch_dtype_float16(), ScalarType::Half},
                                                         {aoti_torch_dtype_int64(), ScalarType::Long},
                                                         {aoti_torch_dtype_int32(), ScalarType::Int},
                                                         {aoti_torch_dtype_int16(), ScalarType::Short},
                                                         {aoti_torch_dtype_int8(), ScalarType::Char},
                                                         {aoti_torch_dtype_uint8(), ScalarType::Byte},
                                                         {aoti_torch_dtype_bool(), ScalarType::Bool},
                                                         {aoti_torch_dtype_complex64(), ScalarType::ComplexFloat}};
  for (const auto& [c, type] : codes)
    if (c == code) return type;
  return ScalarType::Undefined;
}

inline int32_t code_of_dtype(ScalarType t) {
  switch (t) {
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    default:
      return aoti_torch_dtype_float32();
  }
}

// A tensor that this owns a reference to, with its properties; or nothing, for an optional argument that is absent.
class Tensor {
  AtenTensorHandle handle = nullptr;

 public:
  void* data = nullptr;
  ScalarType dtype = ScalarType::Undefined;
  int32_t device_type = 0, device = -1;
  int64_t dim = 0, numel = 0;
  const int64_t *size = nullptr, *stride = nullptr;

  Tensor() = default;
  // Steals the reference. `defined` is false of Python's None in place of a tensor.
  explicit Tensor(AtenTensorHandle h) : handle(h) {
    bool defined = false;
    TORCH_ERROR_CODE_CHECK(aoti_torch_is_defined(h, &defined));
    if (!defined) return;
    int64_t *sizes = nullptr, *strides = nullptr;
    int32_t code = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(h, &dim));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(h, &numel));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(h, &sizes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(h, &strides));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(h, &code));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(h, &device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(h, &device));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(h, &data));
    dtype = dtype_of_code(code), size = sizes, stride = strides;
  }
  Tensor(Tensor&& other) noexcept { *this = std::move(other); }
  Tensor& operator=(Tensor&& other) noexcept {
    char mine[sizeof(Tensor)];  // plain numbers and the reference
    std::memcpy(mine, static_cast<void*>(this), sizeof(Tensor));
    std::memcpy(static_cast<void*>(this), &other, sizeof(Tensor));
    std::memcpy(static_cast<void*>(&other), mine, sizeof(Tensor));
    return *this;
  }
  ~Tensor() {
    if (handle) aoti_torch_delete_tensor_object(handle);
  }

  explicit operator bool() const { return handle; }
  bool defined() const { return size; }
  AtenTensorHandle get() const { return handle; }
  AtenTensorHandle release() { return std::exchange(handle, nullptr); }

  bool contiguous() const {
    int64_t step = 1;
    for (int64_t d = dim - 1; d >= 0; --d) {
      if (size[d] != 1 && stride[d] != step) return numel == 0;
      step *= size[d];
    }
    return true;
  }
  // Storage can shrink after its tensor was made: untyped_storage().resize_(0) is how sharding frees memory.
  bool in_storage() const {
    if (numel == 0) return true;
    int64_t bytes = 0, last = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &bytes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(handle, &last));
    for (int64_t d = 0; d < dim; ++d) last += (size[d] - 1) * stride[d];
    return last < bytes / element_size(dtype);
  }
  // Whether two elements may share a place in memory: whether, from the innermost on, a stride is less than what lies
  // in it.
  bool overlaps() const {
    std::vector<std::pair<int64_t, int64_t>> dims;
    for (int64_t d = 0; d < dim; ++d)
      if (size[d] > 1) dims.emplace_back(stride[d], size[d]);
    std::sort(dims.begin(), dims.end());
    int64_t last = 0;
    for (const auto& [step, n] : dims) {
      if (step <= last) return numel > 0;
      last += step * (n - 1);
    }
    return false;
  }
  // The memory that its elements lie in, gaps included.
  std::pair<const char*, const char*> extent() const {
    if (numel == 0) return {};
    int64_t last = 0;
    for (int64_t d = 0; d < dim; ++d) last += (size[d] - 1) * stride[d];
    const auto first = static_cast<const char*>(data);
    return {first, first + (last + 1) * element_size(dtype)};
  }
  bool is_at(const Tensor& other) const {
    return data == other.data && dim == other.dim && std::equal(size, size + dim, other.size) &&
           std::equal(stride, stride + dim, other.stride);
  }
};

// A tensor on the device of another one, not filled. Not by torch::stable::new_empty, which takes the dispatcher's way,
// several times as long.
inline Tensor new_tensor(const Tensor& like, const int64_t* size, const int64_t* stride, int64_t dim,
                         ScalarType dtype) {
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, size, stride, code_of_dtype(dtype), like.device_type, like.device, &made));
  return Tensor(made);
}
inline Tensor new_tensor(const Tensor& like, const int64_t* size, int64_t dim, ScalarType dtype) {
  constexpr int64_t most = 16;  // dimensions whose strides need no memory of their own
  int64_t few[most];
  Sizes many(dim > most ? dim : 0);
  int64_t *stride = dim > most ? many.data() : few, step = 1;
  for (int64_t d = dim - 1; d >= 0; step *= std::max<int64_t>(size[d], 1), --d) stride[d] = step;
  return new_tensor(like, size, stride, dim, dtype);
}
inline Tensor new_number(const Tensor& like, ScalarType dtype) { return new_tensor(like, nullptr, 0, dtype); }
inline Tensor none_of(const Tensor& like) {  // stands for a gradient that nobody asked for
  const int64_t nothing = 0;
  return new_tensor(like, &nothing, 1, like.dtype);
}

// An operator of torch's that takes a tensor, perhaps a number, and otherwise None.
inline Tensor call_torch(const char* op, const Tensor& t, int32_t second = 0) {
  StableIValue stack[8] = {};
  std::memcpy(stack + 1, &second, sizeof(second));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(t.get(), &handle));
  std::memcpy(stack, &handle, sizeof(handle));
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack, TORCH_ABI_VERSION));
  std::memcpy(&handle, stack, sizeof(handle));
  return Tensor(handle);
}
inline void make_contiguous(Tensor& t) {
  if (!t.contiguous()) t = call_torch("aten::contiguous", t, aoti_torch_memory_format_contiguous_format());
}

// A tensor like another, not filled, in memory that the device has made ready to be written. Its dimensions lie in the
// order of the other's, without gaps, as torch.empty_like gives.
template <class Device>
Tensor fresh_like(const Tensor& like) {
  Tensor t =
      like.contiguous() ? new_tensor(like, like.size, like.dim, like.dtype) : call_torch("aten::empty_like", like);
  Device::prepare(t);
  return t;
}
// The arguments of a call, read off the dispatcher's stack in the order of the schema. All are read before anything is
// checked, so that an error leaves no reference behind.
class Arguments {
  StableIValue* next;

  template <class T>
  T plain() {
    T x;
    std::memcpy(&x, next++, sizeof(x));
    return x;
  }

 public:
  explicit Arguments(StableIValue* stack) : next(stack) {}
  Tensor tensor() { return Tensor(plain<AtenTensorHandle>()); }
  Tensor maybe_tensor() {  // a pointer to a value of its own
    StableIValue* there = plain<StableIValue*>();
    if (!there) return {};
    AtenTensorHandle handle = nullptr;
    std::memcpy(&handle, there, sizeof(handle));
    delete there;
    return Tensor(handle);
  }
  int64_t integer() { return plain<int64_t>(); }
  double number() { return plain<double>(); }
  bool boolean() { return plain<bool>(); }
};

// Puts the results where the arguments were.
template <class... T>
void give(StableIValue* stack, T&... results) {
  const AtenTensorHandle handles[] = {results.release()...};
  for (AtenTensorHandle h : handles) {
    *stack = 0;
    std::memcpy(stack++, &h, sizeof(h));
  }
}

// An op is a security boundary: it trusts no argument. Names are those of the schema.
struct Check {
  const char* op;
  const Tensor& input;

  Check(const char* op, const Tensor& input) : op(op), input(input) {
    there(input, "input");
    dispatch_floating(input.dtype, [&]<class S>() {});  // or raises
    storage(input, "input");
  }
  void there(const Tensor& t, const char* name) const {
    STD_TORCH_CHECK(t.defined(), op, ": expected a tensor for ", name);
  }
  void storage(const Tensor& t, const char* name) const {
    STD_TORCH_CHECK(t.in_storage(), op, ": the storage of ", name, " is too small for its sizes and strides");
  }
  void beside(const Tensor& t, const char* name, ScalarType dtype) const {
    there(t, name);
    STD_TORCH_CHECK(t.device_type == input.device_type && t.device == input.device, op, ": expected ", name,
                    " on the device of input");
    STD_TORCH_CHECK(t.dtype == dtype, op, ": expected ", name, " of dtype ", torch::headeronly::toString(dtype),
                    ", not ", torch::headeronly::toString(t.dtype));
    storage(t, name);
  }
  void tensor(const Tensor& t, const char* name, ScalarType dtype, const int64_t* size, int64_t dim) const {
    beside(t, name, dtype);
    STD_TORCH_CHECK(t.dim == dim && std::equal(size, size + dim, t.size), op, ": expected ", name, " of size ",
                    text(size, dim), ", not ", text(t.size, t.dim));
  }
  void tensor(const Tensor& t, const char* name, ScalarType dtype, const Sizes& size) const {
    tensor(t, name, dtype, size.data(), static_cast<int64_t>(size.size()));
  }
  void like_input(const Tensor& t, const char* name) const { tensor(t, name, input.dtype, input.size, input.dim); }
  void maybe_like_input(const Tensor& t, const char* name) const {
    if (t) like_input(t, name);
  }
  void reduction(int64_t r) const {
    STD_TORCH_CHECK(r >= None && r <= MeanOrZero, op,
                    ": expected reduction 0 (none), 1 (mean), 2 (sum) or 3 (mean, 0 of nothing), not ", r);
  }
};

// Where element i lies, i counted in row-major order over some dimensions of a tensor.
struct Layout {
  static constexpr int max_dims = 12;
  int n = 0;
  int64_t size[max_dims], stride[max_dims];  // innermost first; neighbours that can be merged are

  void add_outer(int64_t s, int64_t st) {
    if (s == 1) return;
    if (n && st == size[n - 1] * stride[n - 1]) {
      size[n - 1] *= s;
      return;
    }
    STD_TORCH_CHECK(n < max_dims, "a tensor of more than ", max_dims, " dimensions that cannot be merged");
    size[n] = s, stride[n] = st, ++n;
  }
  static Layout of(const Tensor& t, const int64_t* dims, int64_t n) {  // outermost first
    Layout l;
    if (t.numel == 0) return l;  // whose strides can be anything
    while (n-- > 0) l.add_outer(t.size[dims[n]], t.stride[dims[n]]);
    return l;
  }
  bool contiguous() const { return n == 0 || (n == 1 && stride[0] == 1); }
#ifdef __CUDACC__
  __host__ __device__
#endif
      int64_t offset(int64_t i) const {
    int64_t at = 0;
    for (int d = 0; d + 1 < n; ++d) {
      at += i % size[d] * stride[d];
      i /= size[d];
    }
    return n ? at + i * stride[n - 1] : 0;
  }
};

using Library = torch::stable::detail::StableLibrary;
using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);

}  // namespace torchloss
