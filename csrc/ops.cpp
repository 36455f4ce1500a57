// The schemas, written from what the losses declare. See pointwise.h and rowwise.h.
#include <cstdio>
#include <string>

#include "pointwise.h"
#include "rowwise.h"

namespace torchloss {

// Options with their defaults, as ", float name=value": the names have spaces between them.
std::string options(const char* names, const double* defaults) {
  std::string text, all = names;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find(' ', begin), all.size());
    char value[32];
    std::snprintf(value, sizeof(value), "%.17g", *defaults++);
    text += ", float " + all.substr(begin, end - begin) + "=" + value;
    begin = end + 1;
  }
  return text;
}

void define(Library& m, const std::string& schema) { m.def(schema.c_str()); }

template <class L>
void row_loss(Library& m) {
  const RowLossInfo& loss = RowInfo<L>::info;
  const std::string name = loss.name, more = options(loss.option_names, loss.defaults);
  std::string rest = loss.target == Target::None ? "" : ", Tensor target";
  if (loss.class_weights) rest += ", Tensor? weight";
  const std::string inputs = "Tensor input" + rest;
  std::string config = ", int dim";
  if (loss.has_ignore_index) config += ", int ignore_index";
  const std::string reduction = loss.has_reduction ? ", int reduction" : "", derivative = config + more;
  config += reduction + more;
  define(m, name + "(" + inputs + config + ") -> (Tensor, Tensor, Tensor)");
  define(m, name + "_backward(Tensor grad, " + inputs + ", Tensor saved" + derivative +
                ", bool target_grad=False) -> (Tensor, Tensor)");
  define(m, name + "_double_backward(Tensor? h, Tensor? k, Tensor grad, " + inputs + ", Tensor saved" + derivative +
                ") -> (Tensor, Tensor, Tensor)");
  if constexpr (requires { typename L::WithGradient; }) {
    const std::string terms = ", Tensor? row_weight, Tensor? normalizer";
    define(m, name + "_with_gradient(" + inputs + terms + config + ") -> (Tensor, Tensor, Tensor, Tensor)");
    define(m, name + "_with_gradient_(Tensor(a!) input" + rest + terms + config + ") -> (Tensor, Tensor, Tensor)");
    define(m, name + "_backward_into(Tensor(a!) grad_input, Tensor grad, " + inputs +
                  ", Tensor saved, Tensor? row_weight, Tensor? total" + derivative +
                  ", bool holds_gradient=False) -> ()");
  }
  // How many numbers a row's forward pass leaves for its backward pass, and how many values it has.
  define(m, name + "_sizes() -> (int, int)");
}

template <class L>
void row_sizes(StableIValue* stack, uint64_t, uint64_t) {
  const int64_t sizes[] = {RowInfo<L>::info.saved, RowInfo<L>::info.values};
  std::memcpy(stack, sizes, sizeof(sizes));
}

template <class L>
void row_map(Library& m) {
  const std::string name = L::name;
  define(m, name + "(Tensor input, int dim) -> Tensor");
  define(m, name + "_backward(Tensor grad, Tensor output, int dim) -> Tensor");
  define(m, name + "_double_backward(Tensor h, Tensor grad, Tensor output, int dim) -> (Tensor, Tensor)");
}

template <template <class> class L>
void point_loss(Library& m) {
  const PointLossInfo& loss = PointInfo<L>::info;
  const std::string name = loss.name, more = options(loss.option_names, loss.defaults);
  const std::string inputs =
      std::string("Tensor input, Tensor target, Tensor? weight") + (loss.pos_weight ? ", Tensor? pos_weight" : "");
  define(m, name + "(" + inputs + ", int reduction" + more + ") -> Tensor");
  define(m, name + "_backward(Tensor grad, " + inputs + more +
                ", bool target_grad=False, float count=1) -> (Tensor, Tensor)");
  define(m, name + "_double_backward(Tensor? h, Tensor? k, Tensor grad, " + inputs + more +
                ") -> (Tensor, Tensor, Tensor)");
}

template <template <class> class... L>
void define_pointwise(Library& m, List<L...>) {
  (point_loss<L>(m), ...);
}

template <class... L>
void define_rowwise(Library& m, RowList<L...>) {
  (row_loss<L>(m), ...);
}
template <class... L>
void define_sizes(Library& m, RowList<L...>) {
  (m.impl((std::string(L::name) + "_sizes").c_str(), row_sizes<L>), ...);
}

template <class... L>
void define_maps(Library& m, RowList<L...>) {
  (row_map<L>(m), ...);
}

}  // namespace torchloss

STABLE_TORCH_LIBRARY(torchloss, m) {
  using namespace torchloss;
  define_pointwise(m, Pointwise{});
  define_rowwise(m, RowLosses{});
  define_maps(m, RowMaps{});
}

STABLE_TORCH_LIBRARY_IMPL(torchloss, CompositeExplicitAutograd, m) {
  torchloss::define_sizes(m, torchloss::RowLosses{});
}
