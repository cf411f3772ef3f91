// SPDX-License-Identifier: BSD-3-Clause
// A tile of square_sum on the processor's plain cores.
#pragma once
#include "square_sum_tile.cuh"

namespace unlearnkit {

// Each thread holds SIDE x SIDE entries, in squares as wide as a vector, so that a warp's loads from shared
// memory meet no bank twice.
template <typename Number_, int ROWS_, int SIDE, int DEPTH_, int BLOCKS_>
struct SimtCore {
  using Number = Number_;
  static constexpr int ROWS = ROWS_, COLUMNS = TILE_COLUMNS, DEPTH = DEPTH_, BLOCKS = BLOCKS_, STAGES = 3;
  static constexpr int VECTOR = 16 / sizeof(Number), PAD = VECTOR, PARTS = SIDE / VECTOR;
  static constexpr int ACROSS = COLUMNS / SIDE, THREADS = ROWS / SIDE * ACROSS;
  static constexpr int UNROLL = 4;
  static constexpr bool BY_POSITION = false;
  using G = Layout<BY_POSITION, ROWS, DEPTH, PAD>;
  using X = Layout<BY_POSITION, COLUMNS, DEPTH, PAD>;

  Number product[SIDE][SIDE] = {}, sum[SIDE][SIDE] = {};

  __device__ __forceinline__ static int first_row() { return threadIdx.x / ACROSS * VECTOR; }
  __device__ __forceinline__ static int first_column() { return threadIdx.x % ACROSS * VECTOR; }

  // Adds `depth` positions' products; what lies behind them is zero.
  __device__ __forceinline__ void multiply(const Number* g, const Number* x, int depth) {
    g += first_row(), x += first_column();
#pragma unroll 1
    for (int end = 0; end < depth; end += UNROLL) {
#pragma unroll
      for (int k = 0; k < UNROLL; ++k) {
        Number a[SIDE], b[SIDE];
        load<ROWS>(g, a);
        load<COLUMNS>(x, b);
#pragma unroll
        for (int i = 0; i < SIDE; ++i)
#pragma unroll
          for (int j = 0; j < SIDE; ++j) product[i][j] += a[i] * b[j];
        g += G::at(0, 1), x += X::at(0, 1);
      }
    }
  }

  __device__ __forceinline__ void square() {
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
      for (int j = 0; j < SIDE; ++j) {
        sum[i][j] += product[i][j] * product[i][j];
        product[i][j] = 0;
      }
  }

  template <typename Use>
  __device__ __forceinline__ void for_each(const Use& use) const {
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
      for (int j = 0; j < SIDE; ++j)
        use(first_row() + i / VECTOR * (ROWS / PARTS) + i % VECTOR,
            first_column() + j / VECTOR * (COLUMNS / PARTS) + j % VECTOR, sum[i][j]);
  }

 private:
  struct alignas(16) Vector {
    Number numbers[VECTOR];
  };

  template <int LENGTH>
  __device__ __forceinline__ static void load(const Number* from, Number (&to)[SIDE]) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const Vector vector = *reinterpret_cast<const Vector*>(from + part * (LENGTH / PARTS));
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) to[part * VECTOR + i] = vector.numbers[i];
    }
  }
};

}  // namespace unlearnkit
