// The schemas: one for each family, and the losses' names. See pointwise.h and rowwise.h.
#include <string>

#include "tensor.h"

namespace {

using torch::stable::detail::StableLibrary;

void define(StableLibrary& m, const std::string& name, const char* inputs, const char* saved, const std::string& params) {
  const std::string in = inputs, values = *saved ? "(Tensor, Tensor, Tensor)" : "Tensor";
  m.def((name + "(" + in + params + ") -> " + values).c_str());
  m.def((name + "_backward(Tensor grad, " + in + saved + params + ", bool target_grad) -> (Tensor, Tensor)").c_str());
  m.def((name + "_double_backward(Tensor? h, Tensor? k, Tensor grad, " + in + saved + params +
         ") -> (Tensor, Tensor, Tensor)")
            .c_str());
}

void pointwise(StableLibrary& m, const char* name, const std::string& parameter) {
  define(m, name, "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight", "",
         ", int reduction, float " + parameter);
}

void rowwise(StableLibrary& m, const char* name, const std::string& parameter) {
  define(m, name, "Tensor input, Tensor? target, Tensor? weight", ", Tensor stats, Tensor total",
         ", int dim, int reduction, int ignore_index, float " + parameter);
}

void map(StableLibrary& m, const std::string& name) {
  m.def((name + "(Tensor input, int dim) -> Tensor").c_str());
  m.def((name + "_backward(Tensor grad, Tensor output, int dim) -> Tensor").c_str());
  m.def((name + "_double_backward(Tensor h, Tensor grad, Tensor output, int dim) -> (Tensor, Tensor)").c_str());
}

}  // namespace

STABLE_TORCH_LIBRARY(torchloss, m) {
  for (const char* name : {"l1_loss", "mse_loss", "kl_div", "kl_div_log_target", "binary_cross_entropy",
                           "binary_cross_entropy_with_logits"})
    pointwise(m, name, "unused");
  pointwise(m, "huber_loss", "delta");
  pointwise(m, "smooth_l1_loss", "beta");
  for (const char* name : {"cross_entropy", "cross_entropy_probs"}) rowwise(m, name, "label_smoothing");
  for (const char* name : {"nll_loss", "softmax_entropy"}) rowwise(m, name, "unused");
  rowwise(m, "entropy", "base");
  rowwise(m, "kl_div_with_logits", "temperature");
  map(m, "softmax");
  map(m, "log_softmax");
}
