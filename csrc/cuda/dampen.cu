// SPDX-License-Identifier: BSD-3-Clause
// Dampening of a list of weights in one launch, a block a chunk: w <- w * lambda F_D / F_f where
// F_f > alpha F_D and that is below 1. No product is added to anything, so that nothing can be contracted
// to a fused multiply-add: the bits are those of torch.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels.h"
#include "launch.cuh"
#include "lists.cuh"

namespace unlearnkit {
namespace {

constexpr int threads = 256;

struct Weights {  // as ops/_cuda.py writes it
  Address weight, forget, reference;
  std::int64_t size, weight_dtype;
  std::int64_t first;  // chunk
};

__device__ float widened(float x) { return x; }
__device__ double widened(double x) { return x; }
__device__ float widened(__half x) { return __half2float(x); }
__device__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

// From float64 to halves by way of float32, as torch.
template <typename W>
__device__ W rounded(double x) {
  if constexpr (std::is_same_v<W, __half>)
    return __float2half_rn(static_cast<float>(x));
  else if constexpr (std::is_same_v<W, __nv_bfloat16>)
    return __float2bfloat16_rn(static_cast<float>(x));
  else
    return static_cast<W>(x);
}

// A float32 product is exact as a double, so that rounded() serves both.
template <typename W, typename F>
__device__ __forceinline__ bool dampened(W& w, F f, F d, F alpha, F lambda) {
  if (!(f > alpha * d)) return false;
  const F factor = lambda * d / f;
  if (!(factor < 1)) return false;  // nor a NaN: 0 / 0 is left alone
  w = rounded<W>(widened(w) * factor);
  return true;
}

// Few weights are selected. Where none of four is, they are neither read nor written.
template <typename W, typename F>
__device__ int dampen_typed(const Weights& row, std::int64_t begin, int size, F alpha, F lambda) {
  W* w = reinterpret_cast<W*>(row.weight) + begin;
  const F* f = reinterpret_cast<const F*>(row.forget) + begin;
  const F* d = reinterpret_cast<const F*>(row.reference) + begin;
  int touched = 0, done = 0;
  if (is_aligned(w) && is_aligned(f) && is_aligned(d)) {
    done = size / 4 * 4;
    for (int i = 4 * threadIdx.x; i < done; i += 4 * threads) {
      const auto fs = *reinterpret_cast<const Four<F>*>(f + i), ds = *reinterpret_cast<const Four<F>*>(d + i);
      bool any = false;
#pragma unroll
      for (int j = 0; j < 4; ++j) any |= fs.at[j] > alpha * ds.at[j];
      if (!any) continue;
      auto ws = *reinterpret_cast<const Four<W>*>(w + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) touched += dampened(ws.at[j], fs.at[j], ds.at[j], alpha, lambda);
      *reinterpret_cast<Four<W>*>(w + i) = ws;
    }
  }
  for (int i = done + threadIdx.x; i < size; i += threads) touched += dampened(w[i], f[i], d[i], alpha, lambda);
  return touched;
}

template <typename F>
__device__ int dampen_chunk(const Weights& row, std::int64_t begin, int size, F alpha, F lambda) {
  switch (static_cast<Dtype>(row.weight_dtype)) {
    case Dtype::float32: return dampen_typed<float>(row, begin, size, alpha, lambda);
    case Dtype::float64: return dampen_typed<double>(row, begin, size, alpha, lambda);
    case Dtype::float16: return dampen_typed<__half>(row, begin, size, alpha, lambda);
    default: return dampen_typed<__nv_bfloat16>(row, begin, size, alpha, lambda);
  }
}

// F apart, since the divisions of float64 take so many registers that fewer blocks would be at work.
template <typename F>
__global__ void __launch_bounds__(threads)
    dampen_kernel(const Weights* table, int tensors, int chunk, F alpha, F lambda, Count* touched) {
  const Weights& row = row_of(table, tensors, blockIdx.x);
  const std::int64_t begin = (blockIdx.x - row.first) * chunk, left = row.size - begin;
  const int size = left < chunk ? static_cast<int>(left) : chunk;
  const int mine = dampen_chunk<F>(row, begin, size, alpha, lambda);
  // whole numbers: their sum does not depend on the order
  const int sum = __reduce_add_sync(all_lanes, mine);
  if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(touched + (&row - table), static_cast<Count>(sum));
}

}  // namespace

void dampen_cuda(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks,
                 int importance_dtype, double alpha, double lambda, Address touched, int device,
                 Address stream) {
  if (chunks == 0) return;
  use_device(device);
  const auto start = [&](auto kernel) {
    launch(kernel, static_cast<unsigned>(chunks), threads, 0, stream_at(stream),
           reinterpret_cast<const Weights*>(table), tensors, chunk, alpha, lambda,
           reinterpret_cast<Count*>(touched));
  };
  if (importance_dtype == static_cast<int>(Dtype::float32))
    start(dampen_kernel<float>);
  else
    start(dampen_kernel<double>);
}

}  // namespace unlearnkit
