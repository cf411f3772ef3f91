// SPDX-License-Identifier: BSD-3-Clause
// Passes over a run of values, whose bits are taken as keys that are ordered as the values are. A key's first
// 16 bits hold all of its exponent, so that NaN and infinities are told from finite values by those alone.
#pragma once
#include <cstdint>

#include "isa.h"

namespace unlearnkit {

constexpr int digit_bits = 16;
constexpr std::int64_t digits = 1 << digit_bits;

enum class Source : int { float32 = 0, float64 = 1, float32_as_float64 = 2 };

// The keys that begin with a prefix of so many bits, a multiple of digit_bits.
struct Prefix {
  std::uint64_t value;
  int bits;
};

constexpr std::int64_t table_size = 2 * (digits + 16);  // two tables, since one makes equal digits in a row wait

// Counts the digit that follows the prefix; with a prefix, also lowers `next` to the least key beyond it.
UNLEARNKIT_EACH_ISA(void tally(Source source, const void* values, std::int64_t n, Prefix prefix,
                               std::uint32_t* table, std::uint64_t& next);
                    // Appends the keys to `out`, which has room for them, and lowers `next` likewise.
                    std::int64_t gather(Source source, const void* values, std::int64_t n, Prefix prefix,
                                        std::uint64_t* out, std::uint64_t& next))

}  // namespace unlearnkit
