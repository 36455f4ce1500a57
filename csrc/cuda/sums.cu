#include "sums.cuh"

#include "device.h"

namespace torchloss {
namespace {

struct Slots {
  const double* slots;
  __device__ double operator()(int64_t i) const { return slots[i]; }
};

struct Values {
  const void* values;
  ScalarType type;
  __device__ double operator()(int64_t r) const { return read(values, type, r); }
};

// The weights of the rows' targets. A target outside the classes has none.
struct Weights {
  const int64_t* target;
  int64_t ignore_index, classes;
  const void* weight;
  int64_t stride;
  ScalarType type;

  __device__ double operator()(int64_t r) const {
    const int64_t y = target[r];
    if (y == ignore_index) return 0;
    if (y < 0 || y >= classes) return kNaN<double>;
    return weight ? read(weight, type, y * stride) : 1;
  }
};

struct Constant {
  double value;
  __device__ double operator()(int64_t) const { return value; }
};

template <class F>
__global__ void __launch_bounds__(kThreads) sum_kernel(const F f, int64_t n, const Sink sink) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) sum += f(i);
  sink.add_block(sum);
}

template <class F>
void sum(const F& f, int64_t n, Sink sink, int device) {
  constexpr int64_t per_block = 16 * kThreads, most = 1024;
  const int64_t blocks = std::clamp<int64_t>(divide_up(n, per_block), 1, most);
  const MaybeTensor held = slots(sink, blocks, device);
  launch(sum_kernel<F>, {blocks, kThreads, kThreads * sizeof(double)}, device, f, n, sink);
  if (held) finish(sink, blocks, device);
}

}  // namespace

MaybeTensor slots(Sink& sink, int64_t blocks, int device) {
  if (blocks == 1) return std::nullopt;
  const torch::stable::Device where(torch::headeronly::DeviceType::CUDA, device);
  Tensor memory = torch::stable::empty(Sizes{blocks}, ScalarType::Double, std::nullopt, where);
  sink.slots = static_cast<double*>(memory.mutable_data_ptr());
  return memory;
}

void finish(const Sink& sink, int64_t blocks, int device) {
  launch(sum_kernel<Slots>, {1, kThreads, kThreads * sizeof(double)}, device, Slots{sink.slots}, blocks, sink);
}

void Cuda::total(const RowArgs& args, void* total) {
  const DeviceGuard guard(args.device);
  const Sink sink{total, compute_type(args.dtype)};
  if (!args.target) return sum(Constant{static_cast<double>(args.rows)}, 1, sink, args.device);
  sum(Weights{args.target, args.ignore_index, args.classes, args.weight, args.weight_stride, args.dtype}, args.rows,
      sink, args.device);
}

void Cuda::reduce(const RowArgs& args, const void* total, void* loss) {
  const DeviceGuard guard(args.device);
  const ScalarType compute = compute_type(args.dtype);
  sum(Values{args.values, compute}, args.rows, {loss, args.dtype, 1, total, compute}, args.device);
}

}  // namespace torchloss
