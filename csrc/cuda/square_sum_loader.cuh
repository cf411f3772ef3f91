// SPDX-License-Identifier: BSD-3-Clause
// How square_sum's tiles reach shared memory: asynchronous copies, some stages ahead, im2col on the way.
#pragma once
#include "ptx.cuh"
#include "square_sum.cuh"

namespace unlearnkit {

// A block's work.
struct Tile {
  int group, first_row, first_column, first_sample, last_sample;
};

// Reads a structure 16 bytes at a time, where the compiler would read its members one by one.
template <typename Whole>
__device__ __forceinline__ Whole read_whole(const Whole& from) {
  constexpr int VECTORS = sizeof(Whole) / sizeof(int4);
  static_assert(sizeof(Whole) % sizeof(int4) == 0 && alignof(Whole) == alignof(int4), "alignas(16)");
  union {
    int4 vectors[VECTORS];
    Whole whole;
  } to;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) to.vectors[i] = reinterpret_cast<const int4*>(&from)[i];
  return to.whole;
}

// Where an operand's tile has its numbers: positions side by side, or rows.
template <bool BY_POSITION, int ROWS_, int DEPTH, int PAD>
struct Layout {
  static constexpr int ROWS = ROWS_, SIZE = BY_POSITION ? ROWS * (DEPTH + PAD) : DEPTH * (ROWS + PAD);
  __device__ static constexpr int at(int row, int position) {
    return BY_POSITION ? row * (DEPTH + PAD) + position : position * (ROWS + PAD) + row;
  }
};

// A Core's stages: DEPTH positions of ROWS outputs and of COLUMNS columns each. A sample's positions are cut
// into chunks of DEPTH, the last one filled up with zeros, and the next sample follows without a break.
template <typename Core>
struct Stages {
  using Number = typename Core::Number;

  alignas(16) Number g[Core::STAGES][Core::G::SIZE];
  alignas(16) Number x[Core::STAGES][Core::X::SIZE];
  Position<Number> positions[2][Core::DEPTH];  // of the stage that is copied next, and of the one after it
  Column columns[Core::COLUMNS];
};

template <typename Core>
class Loader {
  using Number = typename Core::Number;
  const SquareSum& p;
  const Tile& tile;
  Stages<Core>& stages;
  int sample, first = 0;    // of the positions that are looked up next
  int slot = 0, table = 0;  // of the stage that is copied next

 public:
  __device__ Loader(const SquareSum& problem, const Tile& of, Stages<Core>& memory)
      : p(problem), tile(of), stages(memory), sample(of.first_sample) {
    for (int i = threadIdx.x; i < Core::COLUMNS; i += Core::THREADS)
      stages.columns[i] = column_of(p, tile.first_column + i);
    look_up(0);
  }

  // Starts to copy the next stage, zeros where there is none. Each call follows a __syncthreads of its own.
  __device__ __forceinline__ void copy_next() {
    look_up(table ^ 1);
    constexpr Along VECTORS = Core::BY_POSITION ? Along::position_vectors : Along::row_vectors;
    if (p.g.along == VECTORS) {
      copy_g<VECTORS>();
    } else if (p.g.along < Along::rows) {
      copy_g<Along::positions>();
    } else {
      copy_g<Along::rows>();
    }
    if (p.x.along == VECTORS) {
      copy_x<VECTORS>();
    } else if (p.x.along < Along::rows) {
      copy_x<Along::positions>();
    } else {
      copy_x<Along::rows>();
    }
    copy_async_commit();
    table ^= 1;
    slot = slot + 1 == Core::STAGES ? 0 : slot + 1;
  }

 private:
  __device__ __forceinline__ void look_up(int into) {
    const int t = threadIdx.x;
    if (t < Core::DEPTH)
      stages.positions[into][t] =
          position_of<Number>(p, tile.group, sample, sample < tile.last_sample ? first + t : INT32_MAX);
    first += Core::DEPTH;
    if (first >= p.positions) first = 0, ++sample;
  }

  template <Along ALONG>
  __device__ __forceinline__ void copy_g() {
    copy<ALONG, typename Core::G>(stages.g[slot], [&](const Position<Number>& position, int row, int rows) {
      row += tile.first_row;
      const int valid = position.d == NOWHERE ? 0 : min(max(p.outputs - row, 0), rows);
      return Source{position.g + row * p.g.row, valid};
    });
  }

  template <Along ALONG>
  __device__ __forceinline__ void copy_x() {
    copy<ALONG, typename Core::X>(stages.x[slot], [&](const Position<Number>& position, int row, int rows) {
      const Column column = read_whole(stages.columns[row]);
      return Source{position.x + column.offset, meet(p, position, column) ? rows : 0};
    });
  }

  struct Source {
    const Number* from;
    int valid;  // how many rows of it there are
  };

  template <Along ALONG, typename Layout, typename Find>
  __device__ __forceinline__ void copy(Number* to, const Find& find) {
    constexpr bool POSITIONS = ALONG == Along::positions || ALONG == Along::position_vectors;
    constexpr bool VECTORS = ALONG == Along::position_vectors || ALONG == Along::row_vectors;
    constexpr int VECTOR = 16 / sizeof(Number);
    constexpr int WIDE = POSITIONS && VECTORS ? VECTOR : 1;   // positions of one copy
    constexpr int HIGH = !POSITIONS && VECTORS ? VECTOR : 1;  // rows of one copy
    // How many threads lie along the positions. Where rows lie side by side in shared memory, eight positions
    // (a sector of memory) of four rows keep to different banks.
    constexpr int LANES = POSITIONS && VECTORS ? Core::DEPTH / VECTOR
                          : POSITIONS          ? (Core::BY_POSITION ? Core::DEPTH : 8)
                          : VECTORS            ? Core::THREADS / (Layout::ROWS / VECTOR)
                                               : Core::THREADS / 32;
    constexpr int ROW_LANES = Core::THREADS / LANES;
    static_assert(Core::DEPTH % (LANES * WIDE) == 0 && Layout::ROWS % (ROW_LANES * HIGH) == 0, "whole tile");
    const int thread = threadIdx.x;
    const int lane = POSITIONS ? thread % LANES : thread / ROW_LANES;
    const int row_lane = POSITIONS ? thread / LANES : thread % ROW_LANES;
    constexpr int SIZE = WIDE * HIGH * sizeof(Number), COPIES = Layout::ROWS / (ROW_LANES * HIGH);
    constexpr int BATCH = COPIES < 4 ? COPIES : 4;     // this and the next: more would spill registers
    constexpr int UNROLL = VECTORS ? Core::DEPTH : 1;
#pragma unroll UNROLL
    for (int t = 0; t < Core::DEPTH; t += LANES * WIDE) {
      const Position<Number> position = read_whole(stages.positions[table][t + lane * WIDE]);
#pragma unroll 2
      for (int r = 0; r < Layout::ROWS; r += BATCH * ROW_LANES * HIGH) {
        Source sources[BATCH];  // first: nothing is read ahead past the instruction that copies
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
          sources[i] = find(position, r + (i * ROW_LANES + row_lane) * HIGH, HIGH);
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
          copy_async<SIZE>(to + Layout::at(r + (i * ROW_LANES + row_lane) * HIGH, t + lane * WIDE),
                           sources[i].from, sources[i].valid * WIDE * static_cast<int>(sizeof(Number)));
      }
    }
  }
};

}  // namespace unlearnkit
