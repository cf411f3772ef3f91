// SPDX-License-Identifier: BSD-3-Clause
// square_sum in float32 without tensor cores.
#include "square_sum_simt.cuh"

namespace unlearnkit {

void square_sum_simt(const SquareSum& p, int tile_rows, cudaStream_t stream) {
  if (tile_rows == 128)
    launch_tiles<SimtCore<float, 128, 8, 16, 2>>(p, stream);
  else
    launch_tiles<SimtCore<float, 64, 8, 16, 4>>(p, stream);
}

}  // namespace unlearnkit
