// SPDX-License-Identifier: BSD-3-Clause
// The mean of the top h of |w g| in each row of each tensor, in one launch. A warp or a block holds a row's
// values in registers, as bits, which are ordered as the values are (none is negative), and finds the h-th
// largest bit by bit. Ties need no indices: those at the h-th value fill up what those above it leave of h.
#include <type_traits>

#include "kernels.h"
#include "launch.cuh"
#include "lists.cuh"

namespace unlearnkit {
namespace {

constexpr int threads = 256, warps = threads / 32;

struct Rows {  // as ops/_cuda.py writes it
  Address weight, gradient, out;
  std::int64_t rows, length, h, dtype;
  std::int64_t rows_of_block;  // `warps`: a warp a row; 1: the block
  std::int64_t first;          // block
};

__device__ std::uint32_t bits_of(float x) { return __float_as_uint(fabsf(x)); }
__device__ std::uint64_t bits_of(double x) { return __double_as_longlong(fabs(x)); }
__device__ double value_of(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ double value_of(std::uint64_t bits) { return __longlong_as_double(bits); }

// The threads that share a row: a warp, or the block.
template <bool BLOCK>
struct Group {
  static constexpr int size = BLOCK ? threads : 32;
  int rank = BLOCK ? threadIdx.x : threadIdx.x % 32;
  int turn = 0;

  // The sum over the group, on all of its threads and in an order that is always the same. `shared` holds
  // two rounds of the block's warps: a warp may be in the next round while another reads this one's.
  template <typename Number, typename Shared>
  __device__ Number sum(Number mine, Shared (*shared)[warps]) {
    if constexpr (std::is_same_v<Number, int>) {
      mine = __reduce_add_sync(all_lanes, mine);
    } else {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) mine += __shfl_xor_sync(all_lanes, mine, step);
    }
    if constexpr (BLOCK) {
      Shared* round = shared[turn ^= 1];
      if (threadIdx.x % 32 == 0) round[threadIdx.x / 32] = mine;
      __syncthreads();
      mine = 0;
#pragma unroll
      for (int warp = 0; warp < warps; ++warp) mine += static_cast<Number>(round[warp]);
    }
    return mine;
  }
};

// A row's values as bits: up to KEYS a thread in registers; with KEYS = 0 they are computed at each use.
template <typename Number, typename Group, int KEYS>
struct Keys {
  using Bits = decltype(bits_of(Number{}));
  const Number *w, *g;
  std::int64_t length;
  int rank;
  Bits key[KEYS > 0 ? KEYS : 1];

  __device__ Keys(const Number* w, const Number* g, std::int64_t length, int rank)
      : w(w), g(g), length(length), rank(rank) {
#pragma unroll
    for (int i = 0; i < KEYS; ++i) {
      const int at = rank + i * Group::size;
      key[i] = at < length ? bits_of(w[at] * g[at]) : 0;  // zeros add nothing to what lies above zero
    }
  }

  // Calls visit(bits) for this thread's values.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    if constexpr (KEYS > 0) {
#pragma unroll
      for (int i = 0; i < KEYS; ++i) visit(key[i]);
    } else {
      for (std::int64_t at = rank; at < length; at += Group::size) visit(bits_of(w[at] * g[at]));
    }
  }
};

template <typename Number, bool BLOCK, int KEYS>
__device__ void score(const Rows& row, std::int64_t index, double (*sums)[warps], std::int64_t (*counts)[warps]) {
  Group<BLOCK> group;
  const std::int64_t start = index * row.length, h = row.h < row.length ? row.h : row.length;
  const Keys<Number, Group<BLOCK>, KEYS> keys(reinterpret_cast<const Number*>(row.weight) + start,
                                              reinterpret_cast<const Number*>(row.gradient) + start, row.length,
                                              group.rank);
  using Bits = decltype(bits_of(Number{}));
  using Size = std::conditional_t<(KEYS > 0), int, std::int64_t>;
  Bits kth = 0;  // so far h or more values are at least this
  std::int64_t reached = row.length;
  for (int bit = 8 * sizeof(Bits) - 2; bit >= 0 && reached > h; --bit) {
    const Bits candidate = kth | Bits{1} << bit;
    Size mine = 0;
    keys.each([&](Bits key) { mine += key >= candidate; });
    const Size count = group.sum(mine, counts);
    if (count >= h) kth = candidate, reached = count;
  }
  // Where just h are at least kth they are the top, else kth is the h-th largest.
  const bool is_exact = reached == h;
  double sum = 0;
  Size above = 0;
  keys.each([&](Bits key) {
    const bool is_top = key > kth || (is_exact && key == kth);
    sum += is_top ? value_of(key) : 0.0;
    above += is_top;
  });
  sum = group.sum(sum, sums);
  if (!is_exact) {
    above = group.sum(above, counts);
    sum += static_cast<double>(h - above) * value_of(kth);
  }
  Number* out = reinterpret_cast<Number*>(row.out) + index;
  if (group.rank == 0) *out = static_cast<Number>(sum / static_cast<double>(h));
}

template <typename Number>
__device__ void score(const Rows& row, std::int64_t index, double (*sums)[warps], std::int64_t (*counts)[warps]) {
  constexpr int most = 128 / sizeof(Number);  // keys a thread: 32 registers
  if (row.rows_of_block == 1) {
    if (row.length <= most * threads) return score<Number, true, most>(row, index, sums, counts);
    return score<Number, true, 0>(row, index, sums, counts);
  }
  if (row.length <= most / 4 * 32) return score<Number, false, most / 4>(row, index, sums, counts);
  if (row.length <= most * 32) return score<Number, false, most>(row, index, sums, counts);
  score<Number, false, 0>(row, index, sums, counts);
}

__global__ void __launch_bounds__(threads) channels_kernel(const Rows* table, int tensors) {
  __shared__ double sums[2][warps];
  __shared__ std::int64_t counts[2][warps];
  const Rows& row = row_of(table, tensors, blockIdx.x);
  std::int64_t index = (blockIdx.x - row.first) * row.rows_of_block;
  if (row.rows_of_block > 1) index += threadIdx.x / 32;
  if (index >= row.rows) return;  // a whole warp, of those that do not meet
  if (row.dtype == static_cast<int>(Dtype::float32))
    score<float>(row, index, sums, counts);
  else
    score<double>(row, index, sums, counts);
}

}  // namespace

void channel_scores_cuda(Address table, std::int64_t tensors, std::int64_t blocks, int device, Address stream) {
  if (blocks == 0) return;
  use_device(device);
  launch(channels_kernel, static_cast<unsigned>(blocks), threads, 0, stream_at(stream),
         reinterpret_cast<const Rows*>(table), static_cast<int>(tensors));
}

}  // namespace unlearnkit
