#pragma once
#include <torch/headeronly/util/Half.h>

struct __half2 {
  torch::headeronly::Half a, b;
};
inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
