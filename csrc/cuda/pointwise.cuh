#pragma once
#include <utility>

#include "points.cuh"

namespace torchloss {

template <bool wanted, template <class> class L>
void register_if(Library& m) {
  if constexpr (wanted) PointLoss<Cuda, L>::register_ops(m);
}

// Every second loss of the list, so that two compilers share the work.
template <int half, template <class> class... L, size_t... i>
void register_half(Library& m, List<L...>, std::index_sequence<i...>) {
  (register_if<i % 2 == half, L>(m), ...);
}

template <int half, template <class> class... L>
void register_half(Library& m, List<L...> list) {
  register_half<half>(m, list, std::index_sequence_for<L<float>...>());
}

}  // namespace torchloss
