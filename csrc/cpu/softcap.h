#pragma once
// The softcap of logits, x' = cap tanh(x / cap), and its slope 1 - tanh^2, between buffers of the compute type. The
// loops over rows run it on what they have just brought into the L1 cache, so that no kernel knows of it.
#include <cstdint>

namespace torchloss {

// n vectors of so many bytes, those of x `step` numbers apart, the others side by side: y = x', and where `slope` is a
// place, the slopes.
template <class T, int bytes>
void softcap(const T* x, int64_t step, T* y, T* slope, int64_t n, double cap);

}  // namespace torchloss
