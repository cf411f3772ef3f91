// SPDX-License-Identifier: BSD-3-Clause
// What the files of the operator square_sum share: the problem as a kernel sees it, and who computes it.
//
// Of each sample n and group, W[o, i] = sum_t g[o, t] a[t, i] is the weight's gradient, i = (channel, tap)
// the column and t the position; the operator adds sum_n W^2 to total. a is x, read where tap and position
// say, and never written out.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels.h"

namespace unlearnkit {

// Division of [0, 2^31) by a number known beforehand: a product and a shift.
struct Divisor {
  std::uint32_t divisor = 1, factor = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(std::int64_t by) : divisor(static_cast<std::uint32_t>(by)) {
    while ((std::uint64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }

  // Returns the quotient, and leaves the remainder in number.
  __device__ __forceinline__ int divide(int& number) const {
    const auto product = static_cast<std::uint64_t>(static_cast<std::uint32_t>(number)) * factor;
    const int quotient = static_cast<int>(product >> (31 + shift));
    number -= quotient * static_cast<int>(divisor);
    return quotient;
  }
};

// What lies beside each other in memory, and so along the threads that copy it; vectors are 16 bytes.
enum class Along : int { positions, position_vectors, rows, row_vectors };

struct Operand {
  const void* data;
  std::int64_t sample, row, d, h, w;  // strides, in elements; a row is an output of g, a channel of x
  Along along;
};

struct SquareSum {
  Operand x, g;
  int samples, positions, groups, outputs, channels, taps;  // outputs and channels of one group
  int size[3];                                              // of x
  int stride[3], padding[3], dilation[3];
  Divisor kernel_h, kernel_w;  // a tap's number is (kd * KH + kh) * KW + kw
  Divisor g_h, g_w;            // a position's likewise
  Divisor inner;               // of a column's number: channels where taps_outside, else taps
  bool taps_outside;           // columns are numbered (tap, channel), for x with its channels side by side
  int slices;                  // the samples are dealt out to so many blocks, grid.y
  void* total;
  bool total_is_double;
  void* workspace;  // [slices, elements] of x's dtype, unused where there is one slice

  __host__ __device__ int columns() const { return channels * taps; }
  __host__ __device__ std::int64_t elements() const {
    return static_cast<std::int64_t>(groups) * outputs * columns();
  }
  __device__ int first_sample(int slice) const {
    return static_cast<int>(static_cast<std::int64_t>(samples) * slice / slices);
  }
};

// One column's place in x: what a position's is added to.
struct alignas(16) Column {
  std::int64_t offset;
  int d, h, w;  // far below zero where there is no such column
  int element;  // of total's row
};

constexpr int NOWHERE = INT32_MIN / 2;  // two of them still add up; the sizes are smaller

__device__ inline Column no_column() { return {0, NOWHERE, 0, 0, 0}; }

__device__ inline Column column_of(const SquareSum& p, int number) {
  if (number >= p.columns()) return no_column();
  int inner = number;
  const int outer = p.inner.divide(inner);
  const int channel = p.taps_outside ? inner : outer, tap = p.taps_outside ? outer : inner;
  int w = tap;
  int h = p.kernel_w.divide(w);
  int d = p.kernel_h.divide(h);
  d *= p.dilation[0], h *= p.dilation[1], w *= p.dilation[2];
  const std::int64_t offset = channel * p.x.row + d * p.x.d + h * p.x.h + w * p.x.w;
  return {offset, d, h, w, channel * p.taps + tap};
}

// One position's place in g, and in x before a column is added.
template <typename Number>
struct alignas(16) Position {
  const Number *x, *g;
  int d, h, w;  // far below zero where there is no such position
};

template <typename Number>
__device__ Position<Number> position_of(const SquareSum& p, int group, int sample, int number) {
  const auto* x = static_cast<const Number*>(p.x.data);
  const auto* g = static_cast<const Number*>(p.g.data);
  if (number >= p.positions) return {x, g, NOWHERE, 0, 0};
  int w = number;
  int h = p.g_w.divide(w);
  int d = p.g_h.divide(h);
  g += sample * p.g.sample + static_cast<std::int64_t>(group) * p.outputs * p.g.row;
  g += d * p.g.d + h * p.g.h + w * p.g.w;
  d = d * p.stride[0] - p.padding[0];
  h = h * p.stride[1] - p.padding[1];
  w = w * p.stride[2] - p.padding[2];
  x += sample * p.x.sample + static_cast<std::int64_t>(group) * p.channels * p.x.row;
  x += d * p.x.d + h * p.x.h + w * p.x.w;
  return {x, g, d, h, w};
}

// Whether x has a number where position and column meet. No && here: each would be a branch of its own.
template <typename Number>
__device__ __forceinline__ bool meet(const SquareSum& p, const Position<Number>& position,
                                     const Column& column) {
  const auto inside = [](int place, int size) {
    return static_cast<unsigned>(place) < static_cast<unsigned>(size);
  };
  return inside(position.d + column.d, p.size[0]) & inside(position.h + column.h, p.size[1]) &
         inside(position.w + column.w, p.size[2]);
}

// Hands in a block's sum of its slice: to the workspace, or to total where the slice is all there is.
template <typename Number>
__device__ __forceinline__ void hand_in(const SquareSum& p, int slice, std::int64_t element, Number sum) {
  if (p.slices > 1)
    static_cast<Number*>(p.workspace)[slice * p.elements() + element] = sum;
  else if (p.total_is_double)
    static_cast<double*>(p.total)[element] += static_cast<double>(sum);
  else
    static_cast<float*>(p.total)[element] += static_cast<float>(sum);
}

// What float32 is computed with; as PRECISIONS in ops/squares.py.
enum class Precision : int { float32 = 0, tf32 = 1, bfloat16 = 2, simt = 3 };

// A block computes 64 or 128 outputs x 64 columns,
constexpr int TILE_COLUMNS = 64;
void square_sum_simt(const SquareSum&, int tile_rows, cudaStream_t);
void square_sum_double(const SquareSum&, cudaStream_t);
void square_sum_tensor(const SquareSum&, int tile_rows, bool by_position, Precision, cudaStream_t);
// or, of one output and channel, the taps of a 3 x 3 kernel or so many of a larger one.
constexpr int BLOCK_TAPS = 9;
void square_sum_taps(const SquareSum&, bool is_double, cudaStream_t);
// Adds the workspace to total.
void square_sum_slices(const SquareSum&, bool is_double, cudaStream_t);

}  // namespace unlearnkit
