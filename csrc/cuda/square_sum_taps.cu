// SPDX-License-Identifier: BSD-3-Clause
// square_sum where a group has few weights (depthwise): no tile to fill, so a block computes the few taps
// of one output and channel, each of them a dot product over the positions.
#include "launch.cuh"
#include "square_sum.cuh"

namespace unlearnkit {
namespace {

constexpr int WARPS = 4, WARP = 32;

// Each warp takes every fourth sample of the slice, its lanes every 32nd position.
template <typename Number>
__global__ void __launch_bounds__(WARPS* WARP) sum_taps(const SquareSum p) {
  __shared__ Column taps[BLOCK_TAPS];
  __shared__ Number of_warps[WARPS][BLOCK_TAPS];

  const int parts = (p.taps + BLOCK_TAPS - 1) / BLOCK_TAPS;  // of a weight's taps
  const int first_tap = static_cast<int>(blockIdx.x % parts) * BLOCK_TAPS;
  const int channel = static_cast<int>(blockIdx.x / parts % p.channels);
  const int output = static_cast<int>(blockIdx.x / parts / p.channels);  // of all groups
  const int group = output / p.outputs, slice = blockIdx.y;
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  for (int i = threadIdx.x; i < BLOCK_TAPS; i += WARPS * WARP)
    taps[i] = first_tap + i < p.taps ? column_of(p, channel * p.taps + first_tap + i) : no_column();
  __syncthreads();

  Number sums[BLOCK_TAPS] = {};
  for (int sample = p.first_sample(slice) + warp; sample < p.first_sample(slice + 1); sample += WARPS) {
    Number products[BLOCK_TAPS] = {};
    for (int t = lane; t < p.positions; t += WARP) {
      const Position<Number> position = position_of<Number>(p, group, sample, t);
      const Number g = position.g[output % p.outputs * p.g.row];
#pragma unroll
      for (int i = 0; i < BLOCK_TAPS; ++i)
        if (meet(p, position, taps[i])) products[i] += g * position.x[taps[i].offset];
    }
#pragma unroll
    for (int i = 0; i < BLOCK_TAPS; ++i) {
#pragma unroll
      for (int other = WARP / 2; other > 0; other /= 2)
        products[i] += __shfl_xor_sync(0xffffffffu, products[i], other);
      sums[i] += products[i] * products[i];
    }
  }

#pragma unroll
  for (int i = 0; i < BLOCK_TAPS; ++i)
    if (lane == 0) of_warps[warp][i] = sums[i];
  __syncthreads();
  const int i = threadIdx.x;
  if (i >= BLOCK_TAPS || first_tap + i >= p.taps) return;
  Number sum = 0;
  for (int of = 0; of < WARPS; ++of) sum += of_warps[of][i];
  hand_in(p, slice, static_cast<std::int64_t>(output) * p.columns() + taps[i].element, sum);
}

// total += the slices' sums, in their order.
template <typename Number, typename Total>
__global__ void add_slices(Total* total, const Number* workspace, std::int64_t elements, int slices) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  Total sum = 0;
  for (int slice = 0; slice < slices; ++slice) sum += static_cast<Total>(workspace[slice * elements + i]);
  total[i] += sum;
}

template <typename Number, typename Total>
void launch_add_slices(const SquareSum& p, cudaStream_t stream) {
  constexpr unsigned threads = 256;
  const auto blocks = static_cast<unsigned>((p.elements() + threads - 1) / threads);
  launch(add_slices<Number, Total>, blocks, threads, 0, stream, static_cast<Total*>(p.total),
         static_cast<const Number*>(p.workspace), p.elements(), p.slices);
}

}  // namespace

void square_sum_taps(const SquareSum& p, bool is_double, cudaStream_t stream) {
  const std::int64_t parts = (p.taps + BLOCK_TAPS - 1) / BLOCK_TAPS;
  const dim3 grid(static_cast<unsigned>(parts * p.channels * p.outputs * p.groups),
                  static_cast<unsigned>(p.slices));
  launch(is_double ? sum_taps<double> : sum_taps<float>, grid, WARPS * WARP, 0, stream, p);
}

void square_sum_slices(const SquareSum& p, bool is_double, cudaStream_t stream) {
  if (is_double)
    launch_add_slices<double, double>(p, stream);
  else if (p.total_is_double)
    launch_add_slices<float, double>(p, stream);
  else
    launch_add_slices<float, float>(p, stream);
}

}  // namespace unlearnkit
