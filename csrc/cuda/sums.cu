#include "sums.cuh"

#include "device.h"

namespace torchloss {
namespace {

// What is summed: each adds number i to the sums.
template <int n>
struct Slots {
  const double* slots;
  __device__ void operator()(int64_t i, double* sums) const {
#pragma unroll
    for (int k = 0; k < n; ++k) sums[k] += slots[i * n + k];
  }
};

struct Values {
  const void* values;
  ScalarType type;
  __device__ void operator()(int64_t r, double* sum) const { *sum += read(values, type, r); }
};

// The rows' values, and the weights of their targets. A target outside the classes has none.
struct ValuesAndWeights {
  Values values;
  const int64_t* target;
  int64_t ignore_index, classes;
  const void* weight;
  int64_t stride;
  ScalarType type;

  __device__ void operator()(int64_t r, double* sums) const {
    if (values.values) values(r, sums);
    sums[1] += weight_of(r);
  }
  __device__ double weight_of(int64_t r) const {
    if (!target) return 1;
    const int64_t y = target[r];
    if (y == ignore_index) return 0;
    if (y < 0 || y >= classes) return kNaN<double>;
    return weight ? read(weight, type, y * stride) : 1;
  }
};

template <class F, class To>
__global__ void __launch_bounds__(kThreads) sum_kernel(const F f, int64_t n, const Sink<To> sink) {
  double sums[To::n] = {};
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) f(i, sums);
  sink.add_block(sums);
}

template <class F, class To>
void launch_sum(const F& f, int64_t n, const Sink<To>& sink, int64_t blocks, int device) {
  launch(sum_kernel<F, To>, {blocks, kThreads, kThreads * sizeof(double)}, device, f, n, sink);
}

template <class F, class To>
void sum(const F& f, int64_t n, const To& to, int device) {
  constexpr int64_t alone = 32 * kThreads, per_block = 8 * kThreads, most = 1024;
  Sink<To> sink{to};
  const int64_t blocks = n <= alone ? 1 : std::min(divide_up(n, per_block), most);
  const MaybeTensor held = slots(sink, blocks, device);
  launch_sum(f, n, sink, blocks, device);
  if (held) launch_sum(Slots<To::n>{sink.slots}, blocks, sink, 1, device);
}

}  // namespace

MaybeTensor reserve(double*& slots, int64_t n, int device) {
  const torch::stable::Device where(torch::headeronly::DeviceType::CUDA, device);
  Tensor memory = torch::stable::empty(Sizes{n}, ScalarType::Double, std::nullopt, where);
  slots = static_cast<double*>(memory.mutable_data_ptr());
  return memory;
}

void finish(const Sink<Total>& sink, int64_t blocks, int device) {
  launch_sum(Slots<1>{sink.slots}, blocks, sink, 1, device);
}

void sum_rows(const RowArgs& args, const RowTotals& to) {
  const Values values{to.loss ? args.values : nullptr, to.compute};
  sum(ValuesAndWeights{values, args.target, args.ignore_index, args.classes, args.weight, args.weight_stride,
                       args.dtype},
      args.rows, to, args.device);
}

void Cuda::reduce(const RowArgs& args, const void* total, void* loss) {
  const DeviceGuard guard(args.device);
  const ScalarType compute = compute_type(args.dtype);
  sum(Values{args.values, compute}, args.rows, Total{loss, args.dtype, 1, total, compute}, args.device);
}

}  // namespace torchloss
