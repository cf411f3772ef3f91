// SPDX-License-Identifier: BSD-3-Clause
// The instructions that CUDA C++ has no name for: asynchronous copies and tensor cores, sm_80 and newer.
// Where the kernels are compiled for a processor (tests/cuda_emulation), ptx_emulation.h stands in.
#pragma once
#include <cstdint>

#if UNLEARNKIT_EMULATE
#include "ptx_emulation.h"
#else

namespace unlearnkit {

// Copies SIZE bytes (4, 8 or 16; both addresses are multiples of it) from global to shared memory without
// waiting. Of them the first `valid` are read, and the rest are written as zeros.
template <int SIZE>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (SIZE == 16)  // past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(SIZE), "r"(valid)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(SIZE), "r"(valid)
                 : "memory");
}

// Closes this thread's group of copies.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most OPEN of this thread's groups, the latest, are under way.
template <int OPEN>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

// Rounds to TF32, ties away from zero: 8 bits of exponent, 10 of mantissa.
__device__ __forceinline__ std::uint32_t round_tf32(float value) {
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
}

// Rounds two numbers to bfloat16, ties to even, and packs them.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// d [16, 8] += a [16, 8] b [8, 8] by a warp. With r = lane / 4 and q = lane % 4, a lane holds
// d: (r, 2q), (r, 2q + 1), (r + 8, 2q), (r + 8, 2q + 1); a: (r, q), (r + 8, q), (r, q + 4), (r + 8, q + 4);
// b: (q, r), (q + 4, r).
__device__ __forceinline__ void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d [16, 8] += a [16, 16] b [16, 8]: as above, where each of a's and b's columns is a pair.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace unlearnkit
#endif
