#pragma once
#include <torch/headeronly/util/BFloat16.h>

struct __nv_bfloat162 {
  torch::headeronly::BFloat16 a, b;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
