#pragma once
// What both families need of a tensor, on top of the stable ABI: checks, layouts and the dispatch on dtypes.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace torchloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

enum Reduction : int64_t { None, Mean, Sum };  // as in ATen

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

inline Sizes sizes(const Tensor& t) {
  const auto s = t.sizes();
  return Sizes(s.begin(), s.end());
}

inline std::string text(const Sizes& sizes) {
  std::string s = "[";
  for (size_t d = 0; d < sizes.size(); ++d) s += (d ? ", " : "") + std::to_string(sizes[d]);
  return s + "]";
}

// Storage can shrink after its tensor was made: untyped_storage().resize_(0) is how sharding frees memory.
inline bool in_storage(const Tensor& t) {
  if (t.numel() == 0) return true;
  int64_t bytes = 0, last = t.storage_offset();
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &bytes));
  const auto size = t.sizes(), stride = t.strides();
  for (size_t d = 0; d < size.size(); ++d) last += (size[d] - 1) * stride[d];
  return last < bytes / static_cast<int64_t>(t.element_size());
}

// Whether two elements may share a place in memory: whether, from the innermost on, a stride is less than what lies in
// it.
inline bool overlaps(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < t.dim(); ++d)
    if (t.size(d) > 1) dims.emplace_back(t.stride(d), t.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t last = 0;
  for (const auto& [stride, size] : dims) {
    if (stride <= last) return t.numel() > 0;
    last += stride * (size - 1);
  }
  return false;
}

// An op is a security boundary: it trusts no argument. Names are those of the schema.
struct Check {
  const char* op;
  const Tensor& input;

  Check(const char* op, const Tensor& input) : op(op), input(input) {
    defined(input, "input");
    dispatch_floating(input.scalar_type(), [&]<class S>() {});  // or raises
    storage(input, "input");
  }
  void defined(const Tensor& t, const char* name) const {  // Python's None arrives so, in place of a tensor
    STD_TORCH_CHECK(t.defined(), op, ": expected a tensor for ", name);
  }
  void storage(const Tensor& t, const char* name) const {
    STD_TORCH_CHECK(in_storage(t), op, ": the storage of ", name, " is too small for its sizes and strides");
  }
  void like_input(const Tensor& t, const char* name, ScalarType dtype) const {
    defined(t, name);
    STD_TORCH_CHECK(t.device() == input.device(), op, ": expected ", name, " on the device of input");
    STD_TORCH_CHECK(t.scalar_type() == dtype, op, ": expected ", name, " of dtype ", torch::headeronly::toString(dtype),
                    ", not ", torch::headeronly::toString(t.scalar_type()));
    storage(t, name);
  }
  void tensor(const Tensor& t, const char* name, ScalarType dtype, const Sizes& expected) const {
    like_input(t, name, dtype);
    STD_TORCH_CHECK(sizes(t) == expected, op, ": expected ", name, " of size ", text(expected), ", not ",
                    text(sizes(t)));
  }
  void tensor(const Tensor& t, const char* name, const Sizes& expected) const {
    tensor(t, name, input.scalar_type(), expected);
  }
  void tensor(const MaybeTensor& t, const char* name, const Sizes& expected) const {
    if (t) tensor(*t, name, expected);
  }
  void reduction(int64_t r) const {
    STD_TORCH_CHECK(r >= None && r <= Sum, op, ": expected reduction 0 (none), 1 (mean) or 2 (sum), not ", r);
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
  template <class I>
  static Layout of(const Tensor& t, const I& dims) {  // outermost first
    Layout l;
    if (t.numel() == 0) return l;  // whose strides can be anything
    for (auto d = dims.rbegin(); d != dims.rend(); ++d) l.add_outer(t.size(*d), t.stride(*d));
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

// A tensor beside another one, not filled. Not torch::stable::new_empty, which takes the dispatcher's way, several
// times as long: small losses consist of it.
inline Tensor new_tensor(const Tensor& like, const Sizes& size, ScalarType dtype) {
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  Sizes stride(size.size());
  int64_t step = 1;
  for (size_t d = size.size(); d-- > 0; step *= std::max<int64_t>(size[d], 1)) stride[d] = step;
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(size.size()), size.data(), stride.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device, like.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor none_of(const Tensor& like) {  // stands for a gradient that nobody asked for
  return new_tensor(like, {0}, like.scalar_type());
}

// A tensor like another, not filled, in memory that the device has made ready to be written.
template <class Device>
Tensor fresh_like(const Tensor& like) {
  Tensor t = like.is_contiguous() ? new_tensor(like, sizes(like), like.scalar_type()) : torch::stable::empty_like(like);
  Device::prepare(t);
  return t;
}

using Library = torch::stable::detail::StableLibrary;

template <class Ops>
void register_ops(Library& m, const char* name) {
  const std::string n = name;
  m.impl(n.c_str(), TORCH_BOX((&Ops::forward)));
  m.impl((n + "_backward").c_str(), TORCH_BOX((&Ops::backward)));
  m.impl((n + "_double_backward").c_str(), TORCH_BOX((&Ops::double_backward)));
}

}  // namespace torchloss
