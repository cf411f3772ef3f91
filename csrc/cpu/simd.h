// SPDX-License-Identifier: BSD-3-Clause
// Vectors of the instruction set that a file in cpu/isa/ is compiled for. Only for such files.
#pragma once

namespace unlearnkit {
namespace UNLEARNKIT_ISA {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, VECTOR_REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32, VECTOR_REGISTERS = 16;
#else
constexpr int VECTOR_BYTES = 16, VECTOR_REGISTERS = 16;
#endif

template <typename T>
struct Simd {
  // aligned as a number is: memory comes from anywhere
  typedef T Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = VECTOR_BYTES / sizeof(T);

  // by memcpy: Clang takes a reference to a template's vector type to be aligned as a whole vector
  static Vector load(const T* from) {
    Vector v;
    __builtin_memcpy(&v, from, sizeof(v));
    return v;
  }
  static void store(T* to, Vector v) { __builtin_memcpy(to, &v, sizeof(v)); }
  static T total(Vector v) {
    T sum = 0;
    for (int lane = 0; lane < lanes; ++lane) sum += v[lane];
    return sum;
  }
};

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
