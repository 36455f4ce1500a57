#pragma once
// How kernels are launched: on the current stream of a device, with errors that name the place.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <limits>

#include "../tensor.h"

namespace torchloss {

using torch::stable::accelerator::DeviceGuard;

struct Grid {
  int64_t blocks;
  int threads;
  size_t shared;  // bytes of dynamic shared memory
};

template <class V>
constexpr V kNaN = std::numeric_limits<V>::quiet_NaN();

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class... P>
void launch(void (*kernel)(P...), const Grid& grid, int device, const P&... arguments) {
  constexpr size_t granted = 48 << 10;  // more shared memory than this must be asked for
  if (grid.shared > granted)
    STD_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared)));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(std::min<int64_t>(grid.blocks, std::numeric_limits<int>::max()));
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.shared;
  config.stream = current_stream(device);
  cudaLaunchKernelEx(&config, kernel, arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();  // and clears the error, so that no later launch is blamed
}

}  // namespace torchloss
