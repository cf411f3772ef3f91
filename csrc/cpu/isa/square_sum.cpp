// SPDX-License-Identifier: BSD-3-Clause
// Sums of squared per-sample gradients: a register tile of one sample's gradient is built up over the
// positions, squared, and added to a block of sums that stays in the cache while the samples pass.
#include "../simd.h"
#include "../square_sum.h"

#include <utility>  // of which only a type is used

namespace unlearnkit {
namespace UNLEARNKIT_ISA {
namespace {

// Columns of a register tile, in vectors: sums take 24 of 32 registers, or 12 of 16.
constexpr int VECTORS = VECTOR_REGISTERS / 8;

// Positions that are passed in one go, about: a block of g of this many stays in the first-level cache.
constexpr std::int64_t STRETCH = 128;

template <typename T>
struct Tile {
  const T* x;  // of this sample, at the first position
  const std::int64_t* tap;
  const std::int32_t* position;
  const T* g;
  std::int64_t positions;
  T* gradient;  // [M, width], of the positions so far
  T* sums;      // [M, width]
  bool is_first, is_last;
};

template <typename T, int M, int V>
void run_tile(const Tile<T>& tile) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes, width = V * lanes;
  // Where a tile is too small to keep the multipliers busy, even and odd positions have sums of their own.
  constexpr int P = M * V <= TILE_INPUTS * VECTORS / 2 ? 2 : 1;
  Vector sum[P][M][V];
  const T* x[M];
  for (int m = 0; m < M; ++m) x[m] = tile.x + tile.tap[m];
  for (int p = 0; p < P; ++p)
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < V; ++v) sum[p][m][v] = Vector{};
  const std::int32_t* position = tile.position;
  const T* g = tile.g;
  std::int64_t t = 0;
  for (; t + P <= tile.positions; t += P, g += P * width) {
    for (int p = 0; p < P; ++p) {
      const std::int64_t at = position[t + p];
      for (int m = 0; m < M; ++m)
        for (int v = 0; v < V; ++v)
          sum[p][m][v] += Simd<T>::load(g + p * width + v * lanes) * x[m][at];
    }
  }
  if (P == 2 && t < tile.positions)
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < V; ++v)
        sum[0][m][v] += Simd<T>::load(g + v * lanes) * x[m][position[t]];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) {
      T* gradient = tile.gradient + m * width + v * lanes;
      T* sums = tile.sums + m * width + v * lanes;
      Vector w = P == 2 ? sum[0][m][v] + sum[P - 1][m][v] : sum[0][m][v];
      if (!tile.is_first) w += Simd<T>::load(gradient);
      if (tile.is_last)
        Simd<T>::store(sums, Simd<T>::load(sums) + w * w);
      else
        Simd<T>::store(gradient, w);
    }
}

template <typename T, int V>
void run_tile(const Tile<T>& tile, int inputs) {
  switch (inputs) {
    case 1: return run_tile<T, 1, V>(tile);
    case 2: return run_tile<T, 2, V>(tile);
    case 3: return run_tile<T, 3, V>(tile);
    case 4: return run_tile<T, 4, V>(tile);
    case 5: return run_tile<T, 5, V>(tile);
    default: return run_tile<T, TILE_INPUTS, V>(tile);
  }
}

template <typename T, typename Total>
void add_to(const SquareSumBlock& block, const T* sums, int width) {
  Total* total = static_cast<Total*>(block.total);
  for (int o = 0; o < block.outputs; ++o, total += block.total_row)
    for (int i = 0; i < block.inputs; ++i) total[i] += static_cast<Total>(sums[i * width + o]);
}

// Fetches a block of the total while there is time: its rows lie far apart.
void prefetch_total(const SquareSumBlock& block, std::int64_t size) {
  char* row = static_cast<char*>(block.total);
  for (int o = 0; o < block.outputs; ++o, row += block.total_row * size)
    for (std::int64_t byte = 0; byte < block.inputs * size; byte += 64) __builtin_prefetch(row + byte, 1, 2);
}

template <typename T, int V>
void run_block(const SquareSumBlock& block) {
  constexpr int width = V * Simd<T>::lanes;
  alignas(64) T sums[BLOCK_INPUTS * width];
  alignas(64) T gradient[BLOCK_INPUTS * width];
  const std::int64_t parts = (block.positions + STRETCH / 2) / STRETCH;
  const std::int64_t stretch = parts > 1 ? (block.positions + parts - 1) / parts : block.positions;
  for (int i = 0; i < block.inputs * width; ++i) sums[i] = 0;
  for (std::int64_t n = 0; n < block.samples; ++n) {
    if (n + 4 == block.samples || block.samples < 4) prefetch_total(block, block.wide_total ? 8 : sizeof(T));
    const T* x = static_cast<const T*>(block.x) + n * block.x_sample;
    const T* g = static_cast<const T*>(block.g) + n * block.g_sample;
    for (std::int64_t t = 0; t < block.positions; t += stretch) {
      const std::int64_t left = block.positions - t;
      for (int i = 0; i < block.inputs; i += TILE_INPUTS) {
        const Tile<T> tile{x,
                           block.tap + i,
                           block.position + t,
                           g + t * width,
                           left < stretch ? left : stretch,
                           gradient + i * width,
                           sums + i * width,
                           t == 0,
                           left <= stretch};
        run_tile<T, V>(tile, block.inputs - i);
      }
    }
  }
  if (block.wide_total)
    add_to<T, double>(block, sums, width);
  else
    add_to<T, T>(block, sums, width);
}

template <typename T>
void run(const SquareSumBlock& block) {
  const int vectors = (block.outputs + Simd<T>::lanes - 1) / Simd<T>::lanes;
  switch (vectors) {
    case 1: return run_block<T, 1>(block);
    case 2: return run_block<T, 2>(block);
#if defined(__AVX512F__)
    case 3: return run_block<T, 3>(block);
    default: return run_block<T, 4>(block);
#endif
  }
}

template <typename T, typename Total>
void run_planes(const SquareSumPlanes& planes) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes, TAPS = 8;
  for (int o = 0; o < planes.outputs; ++o)
    for (int first = 0; first < planes.taps; first += TAPS) {
      const int taps = planes.taps - first < TAPS ? planes.taps - first : TAPS;
      T sums[TAPS] = {};
      for (std::int64_t n = 0; n < planes.samples; ++n) {
        const T* g = static_cast<const T*>(planes.g) + n * planes.g_sample + o * planes.g_plane;
        const T* x[TAPS];
        for (int k = 0; k < TAPS; ++k)  // those beyond the last repeat it, and are dropped
          x[k] = static_cast<const T*>(planes.x) + n * planes.x_sample +
                 planes.tap[first + (k < taps ? k : taps - 1)];
        Vector sum[TAPS] = {};
        for (std::int64_t t = 0; t < planes.length; t += lanes) {
          const Vector gradient = Simd<T>::load(g + t);
          for (int k = 0; k < TAPS; ++k) sum[k] += gradient * Simd<T>::load(x[k] + t);
        }
        for (int k = 0; k < taps; ++k) {
          const T w = Simd<T>::total(sum[k]);
          sums[k] += w * w;
        }
      }
      Total* total = static_cast<Total*>(planes.total) + o * planes.total_row + first;
      for (int k = 0; k < taps; ++k) total[k] += static_cast<Total>(sums[k]);
    }
}

template <typename T>
void run(const SquareSumPlanes& planes) {
  planes.wide_total ? run_planes<T, double>(planes) : run_planes<T, T>(planes);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define UNLEARNKIT_SHUFFLES 1
#endif
#endif

#if UNLEARNKIT_SHUFFLES
// One step of a transpose: exchanges the lanes of two rows in which bit S of row and lane differ. T is given,
// for a deduced vector type would lose its alignment.
template <int S, typename T, int... J>
void exchange(typename Simd<T>::Vector& a, typename Simd<T>::Vector& b, std::integer_sequence<int, J...>) {
  constexpr int lanes = sizeof...(J);
  const typename Simd<T>::Vector low = __builtin_shufflevector(a, b, (J & S ? lanes + (J ^ S) : J)...);
  b = __builtin_shufflevector(a, b, (J & S ? lanes + J : J ^ S)...);
  a = low;
}

template <int S, typename T>
void exchange_all(typename Simd<T>::Vector (&rows)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
  if constexpr (S < lanes) {
    for (int r = 0; r < lanes; ++r)
      if (!(r & S)) exchange<S, T>(rows[r], rows[r | S], std::make_integer_sequence<int, lanes>{});
    exchange_all<2 * S, T>(rows);
  }
}
#endif

template <typename T>
void run(const TransposeBlock& block) {
  constexpr int lanes = Simd<T>::lanes;
  const T* from = static_cast<const T*>(block.from);
  T* to = static_cast<T*>(block.to);
  std::int64_t c = 0;
#if UNLEARNKIT_SHUFFLES
  using Vector = typename Simd<T>::Vector;
  if (block.column == 1 && block.rows % lanes == 0)
    for (; c + lanes <= block.columns; c += lanes)
      for (int r = 0; r < block.rows; r += lanes) {
        Vector rows[lanes];
        for (int i = 0; i < lanes; ++i)
          rows[i] = Simd<T>::load(from + (r + i) * block.row + c);
        exchange_all<1, T>(rows);
        for (int i = 0; i < lanes; ++i)
          Simd<T>::store(to + (c + i) * block.width + r, rows[i]);
      }
#endif
  for (; c < block.columns; ++c) {
    T* row = to + c * block.width;
    const T* first = from + c * block.column;
    if (block.row == 1)
      for (int r = 0; r < block.rows; ++r) row[r] = first[r];
    else
      for (int r = 0; r < block.rows; ++r) row[r] = first[r * block.row];
    for (int r = block.rows; r < block.width; ++r) row[r] = 0;
  }
}

}  // namespace

int lanes(bool is_double) { return is_double ? Simd<double>::lanes : Simd<float>::lanes; }

int block_outputs(bool is_double) { return VECTORS * lanes(is_double); }

void square_sum(const SquareSumBlock& block, bool is_double) {
  is_double ? run<double>(block) : run<float>(block);
}

void square_sum(const SquareSumPlanes& planes, bool is_double) {
  is_double ? run<double>(planes) : run<float>(planes);
}

void transpose(const TransposeBlock& block, bool is_double) {
  is_double ? run<double>(block) : run<float>(block);
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
