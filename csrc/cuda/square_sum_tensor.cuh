// SPDX-License-Identifier: BSD-3-Clause
// A tile of square_sum on tensor cores.
//
// Float32 as the sum of two TF32 numbers, high + low, has 21 bits of its mantissa and more, and three
// products (low * low is left out) are as accurate as float32's own arithmetic. Tensor cores cut off where
// they add, which would show in long sums: so each holds eight positions alone, and plain cores add those.
#pragma once
#include "square_sum_tile.cuh"

namespace unlearnkit {

// A warp holds 64 x 32 entries: 4 x 4 of the instruction's 16 x 8, each of four numbers a thread.
template <Precision PRECISION, int ROWS_, int BLOCKS_, bool BY_POSITION_>
struct TensorCore {
  using Number = float;
  static constexpr int ROWS = ROWS_, COLUMNS = TILE_COLUMNS, DEPTH = 16, BLOCKS = BLOCKS_, STAGES = 3;
  static constexpr bool BY_POSITION = BY_POSITION_;
  static constexpr int PAD = BY_POSITION ? 4 : 8;  // 8 rows x 4 positions, a warp's load, lie in 32 banks
  static constexpr int SIDE = 4, ACROSS = COLUMNS / (8 * SIDE), THREADS = 32 * ROWS / (16 * SIDE) * ACROSS;
  using G = Layout<BY_POSITION, ROWS, DEPTH, PAD>;
  using X = Layout<BY_POSITION, COLUMNS, DEPTH, PAD>;

  float product[SIDE][SIDE][4] = {}, sum[SIDE][SIDE][4] = {};

  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
  __device__ __forceinline__ static int first_row() { return threadIdx.x / 32 / ACROSS * (16 * SIDE); }
  __device__ __forceinline__ static int first_column() { return threadIdx.x / 32 % ACROSS * (8 * SIDE); }

  // Adds `depth` positions' products; what lies behind them is zero.
  __device__ __forceinline__ void multiply(const float* g, const float* x, int depth) {
    g += G::at(first_row() + lane() / 4, lane() % 4);
    x += X::at(first_column() + lane() / 4, lane() % 4);
    if constexpr (PRECISION == Precision::bfloat16) {
      multiply_bfloat16(g, x);
    } else {
#pragma unroll 1
      for (int k = 0; k < depth; k += 8) {
        if constexpr (PRECISION == Precision::tf32)
          multiply_tf32(g, x);
        else
          multiply_float32(g, x);
        g += G::at(0, 8), x += X::at(0, 8);
      }
    }
  }

  __device__ __forceinline__ void square() {
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
      for (int j = 0; j < SIDE; ++j)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          sum[i][j][n] += product[i][j][n] * product[i][j][n];
          product[i][j][n] = 0;
        }
  }

  template <typename Use>
  __device__ __forceinline__ void for_each(const Use& use) const {
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
      for (int j = 0; j < SIDE; ++j)
#pragma unroll
        for (int n = 0; n < 4; ++n)
          use(first_row() + 16 * i + n / 2 * 8 + lane() / 4, first_column() + 8 * j + lane() % 4 * 2 + n % 2,
              sum[i][j][n]);
  }

 private:
  // The four numbers of g's i-th 16 x 8 that this lane multiplies, and the two of x's j-th 8 x 8.
  __device__ __forceinline__ static float of_g(const float* g, int i, int n) {
    return g[G::at(16 * i + n % 2 * 8, n / 2 * 4)];
  }
  __device__ __forceinline__ static float of_x(const float* x, int j, int n) {
    return x[X::at(8 * j, n * 4)];
  }

  // number = high + low, but for a bit of low at times. The instruction that rounds to TF32 is too slow for
  // this, and what it does is an addition; low stays NaN where that turns a NaN into a number.
  __device__ __forceinline__ static void split(float number, std::uint32_t& high, std::uint32_t& low) {
    constexpr std::uint32_t last = 1u << 13, mask = ~(last - 1);
    high = (__float_as_uint(number) + last / 2) & mask;
    low = __float_as_uint(number - __uint_as_float(high)) & mask;
  }

  __device__ __forceinline__ void multiply_float32(const float* g, const float* x) {
    std::uint32_t x_high[SIDE][2], x_low[SIDE][2];
#pragma unroll
    for (int j = 0; j < SIDE; ++j)
#pragma unroll
      for (int n = 0; n < 2; ++n) split(of_x(x, j, n), x_high[j][n], x_low[j][n]);
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
      std::uint32_t g_high[4], g_low[4];
      float part[SIDE][4] = {};
#pragma unroll
      for (int n = 0; n < 4; ++n) split(of_g(g, i, n), g_high[n], g_low[n]);
      // the small ones first
#pragma unroll
      for (int j = 0; j < SIDE; ++j) mma_tf32(part[j], g_low, x_high[j]);
#pragma unroll
      for (int j = 0; j < SIDE; ++j) mma_tf32(part[j], g_high, x_low[j]);
#pragma unroll
      for (int j = 0; j < SIDE; ++j) mma_tf32(part[j], g_high, x_high[j]);
#pragma unroll
      for (int j = 0; j < SIDE; ++j)
#pragma unroll
        for (int n = 0; n < 4; ++n) product[i][j][n] += part[j][n];
    }
  }

  __device__ __forceinline__ void multiply_tf32(const float* g, const float* x) {
    std::uint32_t of_columns[SIDE][2];
#pragma unroll
    for (int j = 0; j < SIDE; ++j)
#pragma unroll
      for (int n = 0; n < 2; ++n) of_columns[j][n] = round_tf32(of_x(x, j, n));
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
      std::uint32_t of_rows[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) of_rows[n] = round_tf32(of_g(g, i, n));
#pragma unroll
      for (int j = 0; j < SIDE; ++j) mma_tf32(product[i][j], of_rows, of_columns[j]);
    }
  }

  // All sixteen positions at once. Which of them make a pair is free, if it is the same for g and x: those
  // that lie four apart are read without bank conflicts.
  __device__ __forceinline__ void multiply_bfloat16(const float* g, const float* x) {
    std::uint32_t of_columns[SIDE][2];
#pragma unroll
    for (int j = 0; j < SIDE; ++j)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float* half = x + X::at(0, n * 8);
        of_columns[j][n] = pack_bf16(of_x(half, j, 0), of_x(half, j, 1));
      }
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
      std::uint32_t of_rows[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float* half = g + G::at(0, n / 2 * 8);
        of_rows[n] = pack_bf16(of_g(half, i, n % 2), of_g(half, i, n % 2 + 2));
      }
#pragma unroll
      for (int j = 0; j < SIDE; ++j) mma_bf16(product[i][j], of_rows, of_columns[j]);
    }
  }
};

}  // namespace unlearnkit
