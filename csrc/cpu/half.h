// SPDX-License-Identifier: BSD-3-Clause
// float16 and bfloat16 by their bits (IEEE 754, round to nearest even), without branches, so that loops
// over them vectorise. For files in cpu/isa/: everything stands in a namespace of the instruction set.
#pragma once
#include <cstdint>

namespace unlearnkit {
namespace UNLEARNKIT_ISA {

struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float of_bits(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

inline float widened(float x) { return x; }
inline double widened(double x) { return x; }
inline float widened(Bfloat16 x) { return of_bits(static_cast<std::uint32_t>(x.bits) << 16); }

inline float widened(Half x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  const std::uint32_t normal = (rest << 13) + ((rest >= 0x7c00u ? 224u : 112u) << 23);  // infinity and NaN stay
  const std::uint32_t subnormal = bits_of(static_cast<float>(static_cast<std::int32_t>(rest)) * 0x1p-24f);
  return of_bits(sign | (rest < 0x400u ? subnormal : normal));
}

template <class T>
inline T rounded(double x) {
  return static_cast<T>(x);
}
template <class T>
inline T rounded(float x) {
  return static_cast<T>(x);
}

template <>
inline Bfloat16 rounded(float x) {
  const std::uint32_t bits = bits_of(x), even = bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : even >> 16)};
}

template <>
inline Half rounded(float x) {
  const std::uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  // adding 0.5 leaves as many bits as a subnormal has, rounded by the processor
  const std::uint32_t subnormal = bits_of(of_bits(rest) + 0.5f) - bits_of(0.5f);
  const std::uint32_t normal = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  const std::uint32_t finite = rest < (113u << 23) ? subnormal : normal;
  const std::uint32_t special = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<std::uint16_t>(sign | (rest >= 0x477ff000u ? special : finite))};
}

// as torch does: by way of float32
template <>
inline Bfloat16 rounded(double x) {
  return rounded<Bfloat16>(static_cast<float>(x));
}
template <>
inline Half rounded(double x) {
  return rounded<Half>(static_cast<float>(x));
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
