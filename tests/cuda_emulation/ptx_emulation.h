// SPDX-License-Identifier: BSD-3-Clause
// What csrc/cuda/ptx.cuh declares, for the emulator. An asynchronous copy happens as late as it may: where
// its group is waited for. Tensor cores are modelled as measurements found them (Fasi et al., "Numerical
// behavior of NVIDIA tensor cores", PeerJ Computer Science 2021): products are exact, all terms of a sum are
// cut off at one bit below the last of the largest, and the sum is cut off to float32.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <vector>

namespace unlearnkit {

struct EmulatedCopy {
  void* to;
  const void* from;
  int size, valid;
};

struct EmulatedCopies {  // of one thread
  std::vector<EmulatedCopy> open;
  std::deque<std::vector<EmulatedCopy>> groups;
};

inline EmulatedCopies& emulated_copies() {
  static EmulatedCopies of_threads[1024];
  return of_threads[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
}

template <int SIZE>
void copy_async(void* shared, const void* global, int valid) {
  static_assert(SIZE == 4 || SIZE == 8 || SIZE == 16, "as the instruction");
  if (valid < 0 || valid > SIZE) throw std::logic_error("copy_async: more bytes than the copy has");
  const auto odd = [](const void* address) { return reinterpret_cast<std::uintptr_t>(address) % SIZE != 0; };
  if (odd(shared) || (valid > 0 && odd(global)))
    throw std::logic_error("copy_async: an address is not aligned");
  emulated_copies().open.push_back({shared, global, SIZE, valid});
}

inline void copy_async_commit() {
  EmulatedCopies& copies = emulated_copies();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

template <int OPEN>
void copy_async_wait() {
  auto& groups = emulated_copies().groups;
  for (; groups.size() > OPEN; groups.pop_front())
    for (const EmulatedCopy& copy : groups.front()) {
      std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.size - copy.valid);
    }
}

inline std::uint32_t round_tf32(float value) {
  if (!std::isfinite(value)) return __float_as_uint(value);
  return (__float_as_uint(value) + 0x1000u) & ~0x1fffu;
}

inline std::uint32_t pack_bf16(float low, float high) {
  const auto round = [](float value) -> std::uint32_t {
    const std::uint32_t bits = __float_as_uint(value);
    return std::isfinite(value) ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : bits >> 16;
  };
  return round(high) << 16 | round(low);
}

// The sum of terms as a tensor core adds them.
template <std::size_t COUNT>
float tensor_core_sum(const double (&terms)[COUNT]) {
  double largest = 0, sum = 0;
  for (const double term : terms) largest = std::max(largest, std::abs(term));
  if (!(largest > 0) || !std::isfinite(largest)) {
    for (const double term : terms) sum += term;
    return static_cast<float>(sum);
  }
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
  for (const double term : terms) sum += std::trunc(term / unit) * unit;
  const float rounded = static_cast<float>(sum);
  return std::abs(rounded) > std::abs(sum) ? std::nextafter(rounded, 0.0f) : rounded;
}

struct EmulatedFragments {
  std::uint32_t a[4], b[2];
};

// numbers(register) -> the PACKED numbers that it holds
template <int PACKED, typename Numbers>
void emulate_mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                 const Numbers& numbers) {
  EmulatedFragments mine, all[32];
  std::copy(a, a + 4, mine.a);
  std::copy(b, b + 2, mine.b);
  cuda_emulation::exchange(0xffffffffu, mine, all);
  const int lane = threadIdx.x % 32;
  for (int n = 0; n < 4; ++n) {
    const int row = lane / 4, lower = n / 2, column = lane % 4 * 2 + n % 2;
    double terms[8 * PACKED + 1];
    terms[8 * PACKED] = d[n];
    for (int k = 0; k < 8; ++k) {
      const auto of_a = numbers(all[row * 4 + k % 4].a[k / 4 * 2 + lower]);
      const auto of_b = numbers(all[column * 4 + k % 4].b[k / 4]);
      for (int i = 0; i < PACKED; ++i) terms[k * PACKED + i] = static_cast<double>(of_a[i]) * of_b[i];
    }
    d[n] = tensor_core_sum(terms);
  }
}

inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulate_mma<1>(d, a, b, [](std::uint32_t bits) {
    if (bits & 0x1fffu) throw std::logic_error("mma_tf32: a number has more bits than TF32");
    return std::array<float, 1>{__uint_as_float(bits)};
  });
}

inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulate_mma<2>(d, a, b, [](std::uint32_t bits) {
    return std::array<float, 2>{__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  });
}

}  // namespace unlearnkit
