// SPDX-License-Identifier: BSD-3-Clause
// Passes of a radix selection: count a digit of the keys with a prefix, or gather those keys.
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
  std::uint32_t* const other = table + digits + 16;
  std::int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    ++table[S::key(x + i) >> (width<S> - digit_bits)];
    ++other[S::key(x + i + 1) >> (width<S> - digit_bits)];
  }
  if (i < n) ++table[S::key(x + i) >> (width<S> - digit_bits)];
}

// Calls found(j, key) for all of a block in which a key has the prefix; lowers `next`.
template <class S, class Found>
inline void scan(const typename S::Value* x, std::int64_t n, Prefix prefix, std::uint64_t& next,
                 const Found& found) {
  using Key = typename S::Key;
  const int rest = width<S> - prefix.bits;
  const Key wanted = static_cast<Key>(prefix.value), last = (wanted << rest) | ((Key{1} << rest) - 1);
  Key least = ~Key{0};
  const auto look = [&](std::int64_t begin, int count) {
    int any = 0;
    for (int j = 0; j < count; ++j) {
      const Key key = S::key(x + begin + j);
      any |= (key >> rest) == wanted;
      const Key beyond = key > last ? key : ~Key{0};
      least = beyond < least ? beyond : least;
    }
    if (any)
      for (int j = 0; j < count; ++j) {
        const Key key = S::key(x + begin + j);
        found(j, key, (key >> rest) == wanted);
      }
  };
  std::int64_t i = 0;
  for (; i + block <= n; i += block) look(i, block);
  look(i, static_cast<int>(n - i));
  if (least != ~Key{0} && least < next) next = least;
}

template <class S>
void tally_typed(const void* values, std::int64_t n, Prefix prefix, std::uint32_t* table, std::uint64_t& next) {
  using Key = typename S::Key;
  auto* x = static_cast<const typename S::Value*>(values);
  if (prefix.bits == 0) return tally_first<S>(x, n, table);
  const int shift = width<S> - prefix.bits - digit_bits;
  scan<S>(x, n, prefix, next, [&](int j, Key key, bool has_prefix) {
    const Key digit = (key >> shift) & (digits - 1);
    ++table[(j % 2) * (digits + 16) + (has_prefix ? digit : static_cast<Key>(digits))];  // the last is waste
  });
}

template <class S>
std::int64_t gather_typed(const void* values, std::int64_t n, Prefix prefix, std::uint64_t* out,
                          std::uint64_t& next) {
  auto* x = static_cast<const typename S::Value*>(values);
  std::int64_t size = 0;
  if (prefix.bits == 0)
    for (; size < n; ++size) out[size] = S::key(x + size);
  else
    scan<S>(x, n, prefix, next, [&](int, typename S::Key key, bool has_prefix) {
      if (has_prefix) out[size++] = key;
    });
  return size;
}

}  // namespace

void tally(Source source, const void* values, std::int64_t n, Prefix prefix, std::uint32_t* table,
           std::uint64_t& next) {
  if (source == Source::float32) return tally_typed<Single>(values, n, prefix, table, next);
  if (source == Source::float64) return tally_typed<Double>(values, n, prefix, table, next);
  tally_typed<Widened>(values, n, prefix, table, next);
}

std::int64_t gather(Source source, const void* values, std::int64_t n, Prefix prefix, std::uint64_t* out,
                    std::uint64_t& next) {
  if (source == Source::float32) return gather_typed<Single>(values, n, prefix, out, next);
  if (source == Source::float64) return gather_typed<Double>(values, n, prefix, out, next);
  return gather_typed<Widened>(values, n, prefix, out, next);
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
