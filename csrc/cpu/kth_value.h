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

// Four tables, since in one a digit waits for its like before it; the last place of each takes what is not counted.
constexpr int tables = 4;
constexpr std::int64_t table_size = digits + 16;

// Counts the digit that follows the prefix in one of the tables.
UNLEARNKIT_EACH_ISA(void tally(Source source, const void* values, std::int64_t n, Prefix prefix,
                               std::uint32_t* table);
                    // Writes the keys with the prefix to `out`, which has room for them; returns how many.
                    std::int64_t gather(Source source, const void* values, std::int64_t n, Prefix prefix,
                                        std::uint64_t* out);
                    // Returns the least key above another, all ones where there is none.
                    std::uint64_t least_above(Source source, const void* values, std::int64_t n,
                                              std::uint64_t key))

}  // namespace unlearnkit
