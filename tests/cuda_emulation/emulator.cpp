// SPDX-License-Identifier: BSD-3-Clause
// Kernels that are right or wrong in known ways, for test_emulator.py.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <string>

#include "cuda/launch.cuh"

using unlearnkit::dynamic_shared;
using unlearnkit::launch;

namespace {

std::string message;

// Reverses the block's numbers by way of shared memory.
template <bool BARRIER>
__global__ void reverse(const float* in, float* out) {
  __shared__ float numbers[64];
  numbers[threadIdx.x] = in[threadIdx.x];
  if (BARRIER) __syncthreads();
  out[threadIdx.x] = numbers[63 - threadIdx.x];
}

template <bool BARRIER>
__global__ void reverse_in_warp(const float* in, float* out) {
  float* numbers = dynamic_shared<float>();
  numbers[threadIdx.x] = in[threadIdx.x];
  if (BARRIER) __syncwarp();
  out[threadIdx.x] = numbers[threadIdx.x ^ 31];
}

// Writes what another block has written before, if that came first.
__global__ void chain(const float* in, float* out) {
  const unsigned i = blockIdx.x;
  if (threadIdx.x == 0) out[i] = i > 0 ? out[i - 1] + in[i] : in[i];
}

__global__ void forgets_to_clear(const float* in, float* out) {
  __shared__ float sum;
  if (threadIdx.x < 32) atomicAdd(&sum, in[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) out[0] = sum;
}

__global__ void half_a_barrier(const float*, float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncwarp(threadIdx.x % 2 ? 0xffffffffu : 0x55555555u);
}

__global__ void two_barriers(const float*, float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void past_shared(const float* in, float*) { dynamic_shared<float>()[threadIdx.x + 8] = in[threadIdx.x]; }

__global__ void outside_the_mask(const float* in, float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, in[threadIdx.x], 20);
}

__global__ void collectives(const float* in, float* out) {
  const int i = threadIdx.x;
  const unsigned all = 0xffffffffu;
  const float x = in[i];
  bool right = __shfl_sync(all, x, 3) == in[i / 32 * 32 + 3];
  right &= __shfl_sync(all, x, 9, 8) == in[i / 8 * 8 + 1];
  right &= __shfl_up_sync(all, x, 2) == in[i % 32 < 2 ? i : i - 2];
  right &= __shfl_down_sync(all, x, 3, 16) == in[i % 16 > 12 ? i : i + 3];
  right &= __shfl_xor_sync(all, x, 5) == in[i ^ 5];
  right &= __ballot_sync(all, i % 3 == 0) == (i < 32 ? 0x49249249u : 0x92492492u);
  right &= __match_any_sync(all, i % 8) == 0x01010101u << i % 8;
  right &= __reduce_add_sync(all, 1u << i % 32) == all && __reduce_max_sync(all, i) == i / 32 * 32 + 31;
  right &= __any_sync(all, i == 40) == (i >= 32) && __all_sync(all, i < 32) == (i < 32);
  if (i % 2) right &= __reduce_min_sync(0xaaaaaaaau, i) == i / 32 * 32 + 1;  // half a warp
  right &= __syncthreads_count(i % 4 == 0) == 16 && __syncthreads_or(i == 9) && !__syncthreads_and(i != 9);
  float all_of_warp[32];
  cuda_emulation::exchange(all, x, all_of_warp);
  for (int lane = 0; lane < 32; ++lane) right &= all_of_warp[lane] == in[i / 32 * 32 + lane];
  out[i] = right;
}

__global__ void halves(const float* in, float* out) {
  const float x = in[threadIdx.x];
  out[threadIdx.x] = __half2float(__float2half_rn(x));
  out[64 + threadIdx.x] = __bfloat162float(__float2bfloat16_rn(x));
}

using Kernel = void (*)(const float*, float*);
constexpr Kernel kernels[] = {reverse<true>,    reverse<false>, reverse_in_warp<true>, reverse_in_warp<false>,
                              chain,            forgets_to_clear, half_a_barrier,      two_barriers,
                              past_shared,      outside_the_mask, collectives,         halves};

}  // namespace

// Runs a kernel; returns what went wrong, or nothing.
extern "C" const char* run(int kernel, unsigned seed, unsigned grid, unsigned block, std::size_t shared,
                           const float* in, float* out) {
  cuda_emulation::emulator.seed(seed);
  try {
    launch(kernels[kernel], grid, block, shared, nullptr, in, out);
    return "";
  } catch (const std::exception& error) {
    return (message = error.what()).c_str();
  }
}
