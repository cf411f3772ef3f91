// SPDX-License-Identifier: BSD-3-Clause
// bfloat16 of CUDA: the upper half of a float32, ties to even; every NaN becomes 0x7fff.
#pragma once
#include "cuda_runtime.h"

struct __nv_bfloat16 { std::uint16_t bits; };

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned{x.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const unsigned bits = __float_as_uint(x), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return {static_cast<std::uint16_t>(std::isnan(x) ? 0x7fffu : rounded >> 16)};
}
