// SPDX-License-Identifier: BSD-3-Clause
// square_sum in float64.
#include "square_sum_simt.cuh"

namespace unlearnkit {

void square_sum_double(const SquareSum& p, cudaStream_t stream) {
  launch_tiles<SimtCore<double, 64, 4, 8, 1>>(p, stream);
}

}  // namespace unlearnkit
