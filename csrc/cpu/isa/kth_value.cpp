// SPDX-License-Identifier: BSD-3-Clause
// Passes of a radix selection: count a digit of the keys with a prefix, gather those keys, find the next key.
#include "../kth_value.h"

namespace unlearnkit {
namespace UNLEARNKIT_ISA {
namespace {

constexpr int block = 32;

struct Single {  // float32
  using Value = float;
  using Key = std::uint32_t;
  static Key key(const float* x) {
    std::int32_t bits;
    __builtin_memcpy(&bits, x, sizeof bits);
    return static_cast<Key>(bits) ^ (static_cast<Key>(bits >> 31) | 0x80000000u);
  }
};

struct Double {  // float64
  using Value = double;
  using Key = std::uint64_t;
  static Key key(const double* x) {
    std::int64_t bits;
    __builtin_memcpy(&bits, x, sizeof bits);
    return static_cast<Key>(bits) ^ (static_cast<Key>(bits >> 63) | 0x8000000000000000u);
  }
};

struct Widened {  // float32 among float64
  using Value = float;
  using Key = std::uint64_t;
  static Key key(const float* x) {
    const double wide = *x;
    return Double::key(&wide);
  }
};

template <class S>
constexpr int width = 8 * sizeof(typename S::Key);

template <class S>
void tally_first(const typename S::Value* x, std::int64_t n, std::uint32_t* table) {
  constexpr int shift = width<S> - digit_bits;
  std::int64_t i = 0;
  for (; i + block <= n; i += block) {
    std::uint32_t found[block], differ = 0;
    for (int j = 0; j < block; ++j) found[j] = static_cast<std::uint32_t>(S::key(x + i + j) >> shift);
    for (int j = 1; j < block; ++j) differ |= found[j] ^ found[0];
    if (differ)
      for (int j = 0; j < block; ++j) ++table[j % tables * table_size + found[j]];
    else  // a run of equal values would make each wait for the one before
      table[found[0]] += block;
  }
  for (; i < n; ++i) ++table[S::key(x + i) >> shift];
}

// Calls found(keys, count) for every block in which a key has the prefix.
template <class S, class Found>
inline void scan(const typename S::Value* x, std::int64_t n, Prefix prefix, const Found& found) {
  using Key = typename S::Key;
  const int rest = width<S> - prefix.bits;
  const Key wanted = static_cast<Key>(prefix.value);
  Key keys[block];
  std::int64_t i = 0;
  for (; i + block <= n; i += block) {
    Key any = 0;
    for (int j = 0; j < block; ++j) {
      keys[j] = S::key(x + i + j);
      any |= (keys[j] >> rest) == wanted;
    }
    if (any) found(keys, block);
  }
  for (; i < n; ++i) {
    keys[0] = S::key(x + i);
    if ((keys[0] >> rest) == wanted) found(keys, 1);
  }
}

template <class S>
void tally_typed(const void* values, std::int64_t n, Prefix prefix, std::uint32_t* table) {
  using Key = typename S::Key;
  auto* x = static_cast<const typename S::Value*>(values);
  if (prefix.bits == 0) return tally_first<S>(x, n, table);
  const int rest = width<S> - prefix.bits, shift = rest - digit_bits;
  const Key wanted = static_cast<Key>(prefix.value);
  scan<S>(x, n, prefix, [&](const Key* keys, int count) {
    Key differ = 0;
    for (int j = 0; j < count; ++j) differ |= keys[j] ^ keys[0];
    if (!differ) {
      table[(keys[0] >> shift) & (digits - 1)] += count;
      return;
    }
    for (int j = 0; j < count; ++j) {  // without a branch: which keys have the prefix may be left to chance
      const Key others = Key{(keys[j] >> rest) == wanted} - 1;
      const Key digit = (keys[j] >> shift) & (digits - 1);
      ++table[j % tables * table_size + ((digit & ~others) | (others & digits))];
    }
  });
}

template <class S>
std::int64_t gather_typed(const void* values, std::int64_t n, Prefix prefix, std::uint64_t* out) {
  using Key = typename S::Key;
  auto* x = static_cast<const typename S::Value*>(values);
  std::int64_t size = 0;
  if (prefix.bits == 0)
    for (; size < n; ++size) out[size] = S::key(x + size);
  else
    scan<S>(x, n, prefix, [&](const Key* keys, int count) {
      for (int j = 0; j < count; ++j)
        if (keys[j] >> (width<S> - prefix.bits) == prefix.value) out[size++] = keys[j];
    });
  return size;
}

template <class S>
std::uint64_t least_above_typed(const void* values, std::int64_t n, std::uint64_t bound) {
  using Key = typename S::Key;
  auto* x = static_cast<const typename S::Value*>(values);
  const Key low = static_cast<Key>(bound), none = ~Key{0};
  Key least = none;
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = S::key(x + i), above = key > low ? key : none;
    least = above < least ? above : least;
  }
  return least == none ? ~std::uint64_t{0} : least;
}

}  // namespace

void tally(Source source, const void* values, std::int64_t n, Prefix prefix, std::uint32_t* table) {
  if (source == Source::float32) return tally_typed<Single>(values, n, prefix, table);
  if (source == Source::float64) return tally_typed<Double>(values, n, prefix, table);
  tally_typed<Widened>(values, n, prefix, table);
}

std::int64_t gather(Source source, const void* values, std::int64_t n, Prefix prefix, std::uint64_t* out) {
  if (source == Source::float32) return gather_typed<Single>(values, n, prefix, out);
  if (source == Source::float64) return gather_typed<Double>(values, n, prefix, out);
  return gather_typed<Widened>(values, n, prefix, out);
}

std::uint64_t least_above(Source source, const void* values, std::int64_t n, std::uint64_t key) {
  if (source == Source::float32) return least_above_typed<Single>(values, n, key);
  if (source == Source::float64) return least_above_typed<Double>(values, n, key);
  return least_above_typed<Widened>(values, n, key);
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
