// SPDX-License-Identifier: BSD-3-Clause
// The mean of the top h of |w g| in each row, whose bits are ordered as the values are (none is negative).
// One pass over the data keeps what lies above a guess, made of the row before; where that is h or more, the
// h-th largest is among it, and is found by bisection of its bits, else the row is read again. Ties need no
// indices: those at the h-th value fill up what those above it leave of h.
#include "../channels.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace unlearnkit {
namespace UNLEARNKIT_ISA {
namespace {

constexpr int lanes = 8;  // of every sum, on every processor, so that all round alike
typedef double Sums __attribute__((vector_size(8 * lanes)));

template <class T>
struct Of;
template <>
struct Of<float> {
  using Bits = std::int32_t;
  using Unsigned = std::uint32_t;
  typedef float Values __attribute__((vector_size(4 * lanes)));
  typedef std::int32_t Words __attribute__((vector_size(4 * lanes)));
  static constexpr Bits magnitude = 0x7fffffff, step = 1 << 21;  // a quarter of a power of two
};
template <>
struct Of<double> {
  using Bits = std::int64_t;
  using Unsigned = std::uint64_t;
  typedef double Values __attribute__((vector_size(8 * lanes)));
  typedef std::int64_t Words __attribute__((vector_size(8 * lanes)));
  static constexpr Bits magnitude = 0x7fffffffffffffff, step = 1ll << 50;
};

template <class To, class From>
inline To as(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits keep their size");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

template <class T>
inline typename Of<T>::Bits product(T w, T g) {
  return as<typename Of<T>::Bits>(w * g) & Of<T>::magnitude;
}

inline double total(const Sums& sums) {
  double all = 0;
  for (int j = 0; j < lanes; ++j) all += sums[j];
  return all;
}

template <class T>
double sum_all(const T* w, const T* g, std::int64_t n) {
  using V = typename Of<T>::Values;
  using I = typename Of<T>::Words;
  Sums even = {}, odd = {};
  const auto add = [&](std::int64_t i, Sums& sums) {
    V p, q;
    __builtin_memcpy(&p, w + i, sizeof p);
    __builtin_memcpy(&q, g + i, sizeof q);
    sums += __builtin_convertvector((V)((I)(p * q) & Of<T>::magnitude), Sums);
  };
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) add(i, even), add(i + lanes, odd);
  for (; i < n; ++i) even[i % lanes] += as<T>(product(w[i], g[i]));
  even += odd;
  return total(even);
}

template <class T>
double sum_above(const typename Of<T>::Bits* row, std::int64_t n, typename Of<T>::Bits bound) {
  using I = typename Of<T>::Words;
  Sums even = {}, odd = {};
  const auto add = [&](std::int64_t i, Sums& sums) {
    I b;
    __builtin_memcpy(&b, row + i, sizeof b);
    sums += __builtin_convertvector((typename Of<T>::Values)(b & (b > bound)), Sums);
  };
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) add(i, even), add(i + lanes, odd);
  for (; i < n; ++i) even[i % lanes] += row[i] > bound ? as<T>(row[i]) : 0;
  even += odd;
  return total(even);
}

// The row is filled up to a multiple of filter_block.
template <class B>
std::int64_t count_above(const B* row, std::int64_t n, B bound) {
  constexpr std::int64_t most = 1 << 30;  // in a count as wide as an element, for the sake of vectors
  std::int64_t all = 0;
  for (std::int64_t begin = 0; begin < n; begin += most) {
    const std::int64_t end = n - begin < most ? n : begin + most;
    B count = 0;
    for (std::int64_t i = begin; i < end; ++i) count += row[i] > bound;
    all += count;
  }
  return all;
}

#if defined(__AVX512F__)
template <>
std::int64_t count_above(const std::int32_t* row, std::int64_t n, std::int32_t bound) {
  const __m512i bounds = _mm512_set1_epi32(bound);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; i += filter_block)
    count += __builtin_popcount(_mm512_cmpgt_epi32_mask(_mm512_loadu_si512(row + i), bounds));
  return count;
}
#endif

// Writes what is above the bound to `kept`, which has room for n + block; returns how many that are.
template <class T>
std::int64_t filter(const T* w, const T* g, std::int64_t n, typename Of<T>::Bits bound,
                    typename Of<T>::Bits* __restrict kept) {
  constexpr int block = filter_block;
  std::int64_t size = 0, i = 0;
  for (; i + block <= n; i += block) {
    typename Of<T>::Bits bits[block], any = 0;
    for (int j = 0; j < block; ++j) {
      bits[j] = product(w[i + j], g[i + j]);
      any |= bits[j] > bound;
    }
    if (any)
      for (int j = 0; j < block; ++j) {
        kept[size] = bits[j];
        size += bits[j] > bound;
      }
  }
  for (; i < n; ++i) {
    kept[size] = product(w[i], g[i]);
    size += kept[size] > bound;
  }
  return size;
}

#if defined(__AVX512F__)
template <>
std::int64_t filter(const float* w, const float* g, std::int64_t n, std::int32_t bound,
                    std::int32_t* __restrict kept) {
  constexpr std::uintptr_t ahead = 4096;  // bytes
  const __m512i magnitude = _mm512_set1_epi32(Of<float>::magnitude), bounds = _mm512_set1_epi32(bound);
  std::int64_t size = 0;
  for (std::int64_t i = 0; i < n; i += 16) {
    // of the row after this one too, which then comes while this one's top is sought
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(w + i) + ahead), 0, 2);
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(g + i) + ahead), 0, 2);
    const __mmask16 live = n - i < 16 ? (1u << (n - i)) - 1 : 0xffffu;
    const __m512 p = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, w + i), _mm512_maskz_loadu_ps(live, g + i));
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(p), magnitude);
    const __mmask16 above = _mm512_mask_cmpgt_epi32_mask(live, bits, bounds);
    _mm512_storeu_si512(kept + size, _mm512_maskz_compress_epi32(above, bits));
    size += __builtin_popcount(above);
  }
  return size;
}
#endif

// The h-th largest of a row, and the sum of the top h.
template <class T>
struct Top {
  typename Of<T>::Bits least;
  double sum;
};

// All of the row is above `low`; `near` may be close to what is sought.
template <class T>
Top<T> top_of(const typename Of<T>::Bits* row, std::int64_t n, std::int64_t h, typename Of<T>::Bits low,
              typename Of<T>::Bits near) {
  using B = typename Of<T>::Bits;
  using U = typename Of<T>::Unsigned;
  B high = 0;
  for (std::int64_t i = 0; i < n; ++i) high = row[i] > high ? row[i] : high;
  // `below` >= h are above `low`, and `above` < h above `high`
  B step = Of<T>::step;
  std::int64_t below = n, above = 0;
  int steps = 0;
  for (U width; (width = static_cast<U>(high) - static_cast<U>(low)) > 1 && below > h; ++steps) {
    U part = width / 2;  // every third step, which bounds their number
    if (steps == 0 && low < near && near < high) {
      part = static_cast<U>(near) - static_cast<U>(low);
    } else if (low < 0 && static_cast<U>(step) < width) {
      part = width - step;  // from the top in growing steps
      step = step < Of<T>::magnitude / 2 ? 2 * step : step;
    } else if (steps % 3) {  // as if the values were spread evenly
      part = static_cast<U>((below - h + 0.5) / (below - above) * static_cast<double>(width));
      part = part < 1 ? 1 : part < width ? part : width - 1;
    }
    const B middle = static_cast<B>(static_cast<U>(low) + part);
    const std::int64_t count = count_above(row, n, middle);
    if (count >= h)
      low = middle, below = count;
    else
      high = middle, above = count;
  }
  if (below == h) return {low, sum_above<T>(row, n, low)};
  return {high, sum_above<T>(row, n, high) + static_cast<double>(h - above) * as<T>(high)};
}

// What a row's h-th largest value is at least, going by the row before.
template <class T>
struct Guess {
  typename Of<T>::Bits bound = -1, margin = Of<T>::step;

  void learn(typename Of<T>::Bits least, bool was_right) {
    margin = was_right ? margin - margin / 16 : margin < Of<T>::magnitude / 4 ? 2 * margin : margin;
    bound = least > margin ? least - margin : -1;
  }
};

template <class T>
double sum_top(const T* w, const T* g, std::int64_t n, std::int64_t h, Guess<T>& guess,
               typename Of<T>::Bits* kept) {
  std::int64_t size = filter(w, g, n, guess.bound, kept);
  const bool was_right = size >= h;
  if (!was_right) {
    guess.bound = -1;
    size = filter(w, g, n, guess.bound, kept);
  }
  for (int j = 0; j < filter_block; ++j) kept[size + j] = -1;
  const Top<T> top = top_of<T>(kept, size, h, guess.bound, guess.bound < 0 ? -1 : guess.bound + guess.margin);
  guess.learn(top.least, was_right);
  return top.sum;
}

template <class T>
void typed(const T* w, const T* g, T* out, std::int64_t rows, std::int64_t length, std::int64_t h,
           void* scratch) {
  auto* kept = static_cast<typename Of<T>::Bits*>(scratch);
  Guess<T> guess;
  const std::int64_t used = h < length ? h : length;
  for (std::int64_t r = 0; r < rows; ++r, w += length, g += length) {
    const double sum = h < length ? sum_top(w, g, length, h, guess, kept) : sum_all(w, g, length);
    out[r] = static_cast<T>(sum / static_cast<double>(used));
  }
}

}  // namespace

void score_rows(const float* w, const float* g, float* out, std::int64_t rows, std::int64_t length,
                std::int64_t h, void* scratch) {
  typed(w, g, out, rows, length, h, scratch);
}

void score_rows(const double* w, const double* g, double* out, std::int64_t rows, std::int64_t length,
                std::int64_t h, void* scratch) {
  typed(w, g, out, rows, length, h, scratch);
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
