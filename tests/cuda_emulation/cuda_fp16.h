// SPDX-License-Identifier: BSD-3-Clause
// float16 of CUDA, by the compiler's own; as there, every NaN becomes 0x7fff.
#pragma once
#include "cuda_runtime.h"

struct __half { std::uint16_t bits; };

inline float __half2float(__half x) { return static_cast<float>(cuda_emulation::bits<_Float16>(x.bits)); }
inline __half __float2half_rn(float x) {
  return {std::isnan(x) ? std::uint16_t{0x7fff} : cuda_emulation::bits<std::uint16_t>(static_cast<_Float16>(x))};
}
