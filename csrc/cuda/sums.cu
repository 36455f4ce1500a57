#include "sums.cuh"

#include "../pointwise.h"
#include "device.h"
#include "shape.h"

namespace torchloss {
namespace {

// What is summed: each adds number i to the sums.
template <int n>
struct Partials {
  const double* partials;
  __device__ void operator()(int64_t i, double* sums) const {
#pragma unroll
    for (int k = 0; k < n; ++k) sums[k] += partials[i * n + k];
  }
};

// The rows' values, and their weights if the total is wanted. A row with a target outside the classes makes it NaN.
struct RowTerms {
  ScalarType dtype, compute;
  bool weights;
  const void *values, *row_weight, *weight;
  const int64_t* target;
  int64_t ignore_index, classes, stride;

  explicit RowTerms(const RowArgs& a)
      : dtype(a.dtype),
        compute(compute_type(a.dtype)),
        weights(a.results.total),
        values(a.results.loss ? a.values : nullptr),
        row_weight(a.row_weight),
        weight(a.weight),
        target(a.target),
        ignore_index(a.ignore_index),
        classes(a.classes),
        stride(a.weight_stride) {}

  __device__ void operator()(int64_t r, double* sums) const {
    if (values) sums[0] += read(values, compute, r);
    if (weights) sums[1] += weight_of(r);
  }
  __device__ double weight_of(int64_t r) const {
    double w = 1;
    if (target) {
      const int64_t y = target[r];
      if (y == ignore_index) return 0;
      if (y < 0 || y >= classes) return kNaN<double>;
      if (weight) w = read(weight, dtype, y * stride);
    }
    return row_weight ? w * read(row_weight, compute, r) : w;
  }
};

template <class F, class To>
__global__ void __launch_bounds__(kThreads) sum_kernel(const F f, int64_t n, const GridSum<To> sum) {
  double sums[To::n] = {};
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) f(i, sums);
  sum.add_block(sums);
}

template <class F, class To>
void launch_sum(const F& f, int64_t n, const GridSum<To>& sum, int64_t blocks, int device) {
  launch(sum_kernel<F, To>, {blocks, kThreads, kThreads * sizeof(double)}, device, f, n, sum);
}

__global__ void convert_kernel(const void* from, ScalarType type, double otherwise, void* to, ScalarType compute) {
  if (threadIdx.x == 0) write(to, compute, from ? read(from, type, 0) : otherwise);
}

}  // namespace

Tensor reserve(double*& memory, int64_t n, int device) {
  const int64_t step = 1;
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &n, &step, code_of_dtype(ScalarType::Double),
                                                  aoti_torch_device_type_cuda(), device, &made));
  Tensor t(made);
  memory = static_cast<double*>(t.data);
  return t;
}

void finish(const GridSum<Total>& sum, int64_t blocks, int device) {
  launch_sum(Partials<1>{sum.partials}, blocks, sum, 1, device);
}

void Cuda::finish(const RowArgs& args) {
  const DeviceGuard guard(args.device);
  GridSum<RowTotals> sum{RowTotals(args)};
  if (!sum.to.wanted()) return;
  constexpr int64_t alone = 32 * kThreads, per_block = 8 * kThreads, most = 1024;
  const int64_t blocks = args.rows <= alone ? 1 : std::min(divide_up(args.rows, per_block), most);
  const Tensor held = reserve_partials(sum, blocks, args.device);
  launch_sum(RowTerms(args), args.rows, sum, blocks, args.device);
  if (held) launch_sum(Partials<RowTotals::n>{sum.partials}, blocks, sum, 1, args.device);
}

void launch_rows(const RowArgs& args, void (*kernel)(RowArgs, Shape), const Demand& demand) {
  const DeviceGuard guard(args.device);
  int64_t blocks = 0;
  if (args.rows > 0) {
    const Shape shape = shape_of(args, demand);
    const int64_t room = element_size(compute_type(args.dtype)) * shape.threads;
    const int64_t slots = kGroups * int64_t{shape.chunk} * demand.streams * shape.threads;
    blocks = divide_up(args.rows, shape.rows());
    launch(kernel, {blocks, shape.threads, static_cast<size_t>(room + 16 * slots)}, args.device, args, shape);
  }
  if (blocks != 1) Cuda::finish(args);
}

void Cuda::normalizer(const RowArgs& args, const Tensor& n, void* total) {
  const DeviceGuard guard(args.device);
  const bool here = n.device_type == aoti_torch_device_type_cuda() && n.device == args.device;
  STD_TORCH_CHECK(here || n.device_type == aoti_torch_device_type_cpu(), args.op,
                  ": expected a normalizer on the CPU or on the device of input");
  const void* from = here ? n.data : nullptr;
  const double otherwise = here ? 0 : read(n.data, n.dtype, 0);
  launch(convert_kernel, {1, kLanes, 0}, args.device, from, n.dtype, otherwise, total, compute_type(args.dtype));
}

void Cuda::zero(void* p, int64_t bytes, int device) {
  const DeviceGuard guard(device);
  if (bytes > 0) STD_CUDA_CHECK(cudaMemsetAsync(p, 0, bytes, current_stream(device)));
}

template struct RowOps<Cuda>;
template struct PointOps<Cuda>;

}  // namespace torchloss
