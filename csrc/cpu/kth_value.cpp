// SPDX-License-Identifier: BSD-3-Clause
// Exact selection over a list of tensors, by digits of 16 bits from the first: a pass counts a digit of the
// keys with the prefix found so far, until few keys are left, which are gathered, or the key is complete.
// float32 takes two passes over the data, float64 three for most data and four at worst.
#include "kth_value.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "../kernels.h"
#include "parallel.h"
#include "pieces.h"

namespace unlearnkit {
namespace {

constexpr std::int64_t few = 1 << 16;  // keys, which are gathered
constexpr std::int64_t round_of = (std::int64_t{1} << 31) / piece_length;  // pieces, before a count overflows

struct Selection {
  std::vector<Piece> pieces;
  const Addresses& addresses;
  const std::vector<int>& dtypes;
  bool is_double;  // the keys, even where a tensor is float32
  int threads;

  Prefix prefix{0, 0};
  std::uint64_t next = ~std::uint64_t{0};  // the least key beyond the prefix

  int width() const { return is_double ? 64 : 32; }

  // Of the first digit: the sign and the exponent of a finite value.
  bool is_finite(std::int64_t digit) const {
    const std::int64_t last = is_double ? 0xfff0 : 0xff80;
    return digits - 1 - last < digit && digit < last;
  }

  double value(std::uint64_t key) const {
    if (is_double) {
      key ^= key >> 63 ? std::uint64_t{1} << 63 : ~std::uint64_t{0};
      double x;
      static_assert(sizeof x == sizeof key, "the bits of a value");
      __builtin_memcpy(&x, &key, sizeof x);
      return x + 0.0;  // -0 is 0
    }
    const auto bits = static_cast<std::uint32_t>(key ^ (key >> 31 ? std::uint64_t{1} << 31 : 0xffffffff));
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x + 0.0f;
  }

  // Calls pass(source, values, n, thread, next) for the pieces from begin to end.
  template <class Pass>
  void walk(std::size_t begin, std::size_t end, const Pass& pass) {
    std::vector<std::uint64_t> least(threads, next);
    parallel_for(end - begin, threads, [&](std::int64_t task, int thread) {
      const auto [tensor, first, last] = pieces[begin + task];
      const bool is_single = dtypes[tensor] == static_cast<int>(Dtype::float32);
      const Source source = !is_single   ? Source::float64
                            : is_double  ? Source::float32_as_float64
                                         : Source::float32;
      const auto* values = reinterpret_cast<const char*>(addresses[tensor]) + first * (is_single ? 4 : 8);
      pass(source, values, last - first, thread, least[thread]);
    });
    next = *std::min_element(least.begin(), least.end());
  }

  // How many keys with the prefix have each digit after it.
  Sizes count() {
    Sizes counts(digits);
    std::vector<std::uint32_t> tables;
    for (std::size_t begin = 0; begin < pieces.size(); begin += round_of) {
      tables.assign(threads * table_size, 0);
      walk(begin, std::min<std::size_t>(pieces.size(), begin + round_of),
           [&](Source source, const void* values, std::int64_t n, int thread, std::uint64_t& least) {
             std::uint32_t* table = tables.data() + thread * table_size;
             UNLEARNKIT_DISPATCH(tally, source, values, n, prefix, table, least);
           });
      for (const std::uint32_t* table = tables.data(); table != tables.data() + tables.size();
           table += table_size / 2)
        for (std::int64_t digit = 0; digit < digits; ++digit) counts[digit] += table[digit];
    }
    if (prefix.bits == 0)
      for (std::int64_t digit = 0; digit < digits; ++digit)
        if (!is_finite(digit)) counts[digit] = 0;
    return counts;
  }

  // The finite keys with the prefix, at most so many, in no order.
  std::vector<std::uint64_t> keys(std::int64_t most) {
    std::vector<std::uint64_t> found(threads * most);
    Sizes sizes(threads);
    walk(0, pieces.size(), [&](Source source, const void* values, std::int64_t n, int thread, std::uint64_t& least) {
      std::uint64_t* out = found.data() + thread * most + sizes[thread];
      sizes[thread] += UNLEARNKIT_DISPATCH(gather, source, values, n, prefix, out, least);
    });
    auto end = found.begin() + sizes[0];
    for (int thread = 1; thread < threads; ++thread)
      end = std::copy_n(found.begin() + thread * most, sizes[thread], end);
    if (prefix.bits == 0)
      end = std::remove_if(found.begin(), end, [&](auto key) { return !is_finite(key >> (width() - digit_bits)); });
    found.erase(end, found.end());
    return found;
  }
};

using Found = std::tuple<std::int64_t, double, double>;

}  // namespace

// Of n finite values: n, the k-th smallest and the one after it (the same at the end). k counts from 1; where
// it is 0, it is 1 + floor((n - 1) quantile).
Found kth_value_cpu(const Addresses& addresses, const Sizes& sizes, const std::vector<int>& dtypes,
                    bool is_double, std::int64_t k, double quantile, int threads) {
  std::vector<Piece> pieces;
  std::int64_t left = 0;  // keys with the prefix
  for (std::size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    cut(pieces, tensor, sizes[tensor]);
    left += sizes[tensor];
  }
  Selection all{std::move(pieces), addresses, dtypes, is_double, left > few ? std::max(threads, 1) : 1};
  std::int64_t n = 0, rank = 0;  // among the keys with the prefix, from 0
  const auto start = [&] {
    const double at = std::floor(static_cast<double>(n - 1) * quantile);
    rank = k > 0 ? k - 1 : at < static_cast<double>(n - 1) ? static_cast<std::int64_t>(at) : n - 1;
    return 0 <= rank && rank < n;
  };
  constexpr double none = std::numeric_limits<double>::quiet_NaN();

  while (left > few && all.prefix.bits < all.width()) {
    const Sizes counts = all.count();
    if (all.prefix.bits == 0) {
      for (const std::int64_t count : counts) n += count;
      if (!start()) return {n, none, none};
    }
    std::int64_t digit = 0;
    for (; rank >= counts[digit]; ++digit) rank -= counts[digit];
    left = counts[digit];
    const auto key = [&](std::int64_t last) { return all.prefix.value << digit_bits | static_cast<std::uint64_t>(last); };
    if (all.prefix.bits + digit_bits == all.width()) {
      std::uint64_t after = key(digit);
      if (rank + 1 == left) {
        std::int64_t other = digit + 1;
        while (other < digits && counts[other] == 0) ++other;
        after = other < digits ? key(other) : all.next;
      }
      const double lower = all.value(key(digit));
      // beyond the last finite value there may be none, or an infinite one
      const double upper = all.value(after);
      return {n, lower, std::isfinite(upper) ? upper : lower};
    }
    all.prefix = {key(digit), all.prefix.bits + digit_bits};
  }
  const bool is_first = all.prefix.bits == 0;
  std::vector<std::uint64_t> keys = all.keys(left);
  if (is_first) {
    n = static_cast<std::int64_t>(keys.size());
    if (!start()) return {n, none, none};
  }
  const auto at = keys.begin() + rank;
  std::nth_element(keys.begin(), at, keys.end());
  const auto after = std::min_element(at + 1, keys.end());
  const double lower = all.value(*at), upper = all.value(after != keys.end() ? *after : all.next);
  return {n, lower, std::isfinite(upper) ? upper : lower};
}

}  // namespace unlearnkit
