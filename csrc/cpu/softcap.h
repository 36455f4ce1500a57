#pragma once
// The softcap of logits, x' = cap tanh(x / cap), and its slope 1 - tanh^2, between buffers of the compute type. The
// loops over rows run it on what they have just brought into the L1 cache, so that no kernel knows of it.
#include <cstdint>

namespace torchloss {

// n vectors of so many bytes, `step` numbers apart: y = softcapped(x), or y times the slope at x.
template <class T, bool slope, int bytes>
void softcap(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n, double cap);

}  // namespace torchloss
