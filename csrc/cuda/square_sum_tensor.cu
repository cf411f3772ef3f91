// SPDX-License-Identifier: BSD-3-Clause
// square_sum on tensor cores: float32 from three TF32 products, and less precise where it is asked for.
#include "square_sum_tensor.cuh"

namespace unlearnkit {
namespace {

template <Precision PRECISION, bool BY_POSITION>
void launch_tensor(const SquareSum& p, int tile_rows, cudaStream_t stream) {
  if (tile_rows == 128)
    launch_tiles<TensorCore<PRECISION, 128, 2, BY_POSITION>>(p, stream);
  else
    launch_tiles<TensorCore<PRECISION, 64, 4, BY_POSITION>>(p, stream);
}

template <Precision PRECISION>
void launch_tensor(const SquareSum& p, int tile_rows, bool by_position, cudaStream_t stream) {
  by_position ? launch_tensor<PRECISION, true>(p, tile_rows, stream)
              : launch_tensor<PRECISION, false>(p, tile_rows, stream);
}

}  // namespace

void square_sum_tensor(const SquareSum& p, int tile_rows, bool by_position, Precision precision,
                       cudaStream_t stream) {
  switch (precision) {
    case Precision::tf32: return launch_tensor<Precision::tf32>(p, tile_rows, by_position, stream);
    case Precision::bfloat16: return launch_tensor<Precision::bfloat16>(p, tile_rows, by_position, stream);
    default: return launch_tensor<Precision::float32>(p, tile_rows, by_position, stream);
  }
}

}  // namespace unlearnkit
