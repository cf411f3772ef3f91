// SPDX-License-Identifier: BSD-3-Clause
// square_sum's main loop: a block owns a tile of outputs x columns and a slice of the samples. Its Core holds
// one sample's gradient and the sum of squares so far in registers, and neither is written in between.
#pragma once
#include "launch.cuh"
#include "square_sum_loader.cuh"

namespace unlearnkit {

template <typename Core>
__global__ void __launch_bounds__(Core::THREADS, Core::BLOCKS) square_sum_tile(const SquareSum p) {
  using Number = typename Core::Number;
  __shared__ Stages<Core> stages;

  const int column_tiles = (p.columns() + Core::COLUMNS - 1) / Core::COLUMNS;
  const int row_tiles = (p.outputs + Core::ROWS - 1) / Core::ROWS;
  const int row_tile = blockIdx.x / column_tiles;  // of all groups
  const int slice = blockIdx.y;
  const Tile tile{row_tile / row_tiles, row_tile % row_tiles * Core::ROWS,
                  static_cast<int>(blockIdx.x % column_tiles) * Core::COLUMNS, p.first_sample(slice),
                  p.first_sample(slice + 1)};

  Loader<Core> loader(p, tile, stages);
  for (int stage = 0; stage < Core::STAGES - 1; ++stage) {
    __syncthreads();
    loader.copy_next();
  }
  Core core;
  int slot = 0;
  for (int sample = tile.first_sample; sample < tile.last_sample; ++sample) {
    for (int left = p.positions; left > 0; left -= Core::DEPTH) {
      copy_async_wait<Core::STAGES - 2>();
      __syncthreads();  // this stage has come, and all threads are done with the one that is copied over
      loader.copy_next();
      core.multiply(stages.g[slot], stages.x[slot], min(left, Core::DEPTH));
      slot = slot + 1 == Core::STAGES ? 0 : slot + 1;
    }
    core.square();
  }
  copy_async_wait<0>();

  core.for_each([&](int row, int column, Number sum) {
    if (tile.first_row + row >= p.outputs || tile.first_column + column >= p.columns()) return;
    const auto output = static_cast<std::int64_t>(tile.group) * p.outputs + tile.first_row + row;
    hand_in(p, slice, output * p.columns() + stages.columns[column].element, sum);
  });
}

template <typename Core>
void launch_tiles(const SquareSum& p, cudaStream_t stream) {
  const std::int64_t columns = (p.columns() + Core::COLUMNS - 1) / Core::COLUMNS;
  const std::int64_t rows = (p.outputs + Core::ROWS - 1) / Core::ROWS;
  const dim3 grid(static_cast<unsigned>(columns * rows * p.groups), static_cast<unsigned>(p.slices));
  launch(square_sum_tile<Core>, grid, Core::THREADS, 0, stream, p);
}

}  // namespace unlearnkit
