// The schemas: one signature for each family, and the names from the table of contents. See pointwise.h and rowwise.h.
#include <set>
#include <string>

#include "losses.h"
#include "tensor.h"

namespace torchloss {

void define(Library& m, const std::string& name, const char* inputs, const char* saved, const std::string& params) {
  const std::string in = inputs, values = *saved ? "(Tensor, Tensor, Tensor)" : "Tensor";
  m.def((name + "(" + in + params + ") -> " + values).c_str());
  m.def((name + "_backward(Tensor grad, " + in + saved + params + ", bool target_grad) -> (Tensor, Tensor)").c_str());
  m.def((name + "_double_backward(Tensor? h, Tensor? k, Tensor grad, " + in + saved + params +
         ") -> (Tensor, Tensor, Tensor)")
            .c_str());
}

void pointwise(Library& m, const Op& op) {
  define(m, op.name, "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight", "",
         std::string(", int reduction, float ") + op.parameter);
}

void rowwise(Library& m, const std::string& name, const std::string& parameter) {
  define(m, name, "Tensor input, Tensor? target, Tensor? weight", ", Tensor stats, Tensor total",
         ", int dim, int reduction, int ignore_index, float " + parameter);
}

void row_map(Library& m, const std::string& name) {
  m.def((name + "(Tensor input, int dim) -> Tensor").c_str());
  m.def((name + "_backward(Tensor grad, Tensor output, int dim) -> Tensor").c_str());
  m.def((name + "_double_backward(Tensor h, Tensor grad, Tensor output, int dim) -> (Tensor, Tensor)").c_str());
}

template <template <class> class... L>
void define_all(Library& m, List<L...>) {
  (pointwise(m, L<float>::op), ...);
}

template <class... L>
void define_losses(Library& m, RowList<L...>) {
  std::set<std::string> seen;  // cross_entropy stands there twice, with and without label smoothing
  ((seen.insert(L::name).second ? rowwise(m, L::name, L::parameter) : void()), ...);
}

template <class... L>
void define_maps(Library& m, RowList<L...>) {
  (row_map(m, L::name), ...);
}

}  // namespace torchloss

STABLE_TORCH_LIBRARY(torchloss, m) {
  using namespace torchloss;
  define_all(m, Pointwise{});
  define_losses(m, RowLosses{});
  define_maps(m, RowMaps{});
  // These are the CPU's, and for callers who keep away from autograd.
  const std::string config = "int dim, int reduction, int ignore_index, float label_smoothing)";
  const std::string saved = "Tensor? target, Tensor? weight, Tensor stats, Tensor total, ";
  m.def(("cross_entropy_and_gradient(Tensor input, Tensor? target, Tensor? weight, " + config +
         " -> (Tensor, Tensor, Tensor, Tensor)")
            .c_str());
  m.def(("cross_entropy_backward_into(Tensor(a!) grad_input, Tensor grad, Tensor input, " + saved + config + " -> ()")
            .c_str());
  m.def(("cross_entropy_backward_(Tensor grad, Tensor(a!) input, " + saved + config + " -> ()").c_str());
}
