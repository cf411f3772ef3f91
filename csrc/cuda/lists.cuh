// SPDX-License-Identifier: BSD-3-Clause
// What the kernels over lists of tensors share: a table in device memory holds a row a tensor, and each
// block looks up the tensor that it works on. So one launch serves any number of tensors.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace unlearnkit {

using Count = unsigned long long;  // what atomicAdd calls 64 bits

constexpr unsigned all_lanes = 0xffffffffu;

// The row that a block belongs to: the last with row.first <= block. Tensors without a block are passed by.
template <typename Row>
__device__ __forceinline__ const Row& row_of(const Row* table, int tensors, std::int64_t block) {
  int low = 0, high = tensors - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return table[low];
}

// Four numbers, read and written in one go or two where they stand at a multiple of 16 bytes (8 for halves).
template <typename Number>
struct alignas(sizeof(Number) > 4 ? 16 : 4 * sizeof(Number)) Four {
  Number at[4];
};

template <typename Number>
__device__ __forceinline__ bool is_aligned(const Number* p) {
  return reinterpret_cast<std::uintptr_t>(p) % alignof(Four<Number>) == 0;
}

}  // namespace unlearnkit
