// SPDX-License-Identifier: BSD-3-Clause
// Per-sample gradients of affine norm layers, in one pass over the activations and their gradients.
#include "../norms.h"

#include "../simd.h"

namespace unlearnkit {
namespace UNLEARNKIT_ISA {
namespace {

double square_root(double value) { return __builtin_sqrt(value); }

// mean and 1 / sqrt(var + eps) of a row, which is short: it is read twice from the cache
template <typename T>
void moments(const T* x, std::int64_t size, double eps, bool is_centered, T* mean, T* scale) {
  using S = Simd<T>;
  typename S::Vector sum{};
  std::int64_t i = 0;
  T rest = 0;
  if (is_centered) {
    for (; i + S::lanes <= size; i += S::lanes) sum += S::load(x + i);
    for (; i < size; ++i) rest += x[i];
    *mean = (S::total(sum) + rest) / static_cast<T>(size);
  } else {
    *mean = 0;
  }
  sum = typename S::Vector{};
  rest = 0;
  for (i = 0; i + S::lanes <= size; i += S::lanes) {
    const auto distance = S::load(x + i) - *mean;
    sum += distance * distance;
  }
  for (; i < size; ++i) rest += (x[i] - *mean) * (x[i] - *mean);
  *scale = static_cast<T>(1 / square_root(static_cast<double>(S::total(sum) + rest) / size + eps));
}

}  // namespace

template <typename T>
void plane_sums(const T* x, const T* g, std::int64_t size, T center, T scale, T* products, T* sums) {
  using S = Simd<T>;
  constexpr int UNROLLED = 4;  // sums of their own: an addition takes four cycles
  typename S::Vector product[UNROLLED] = {}, sum[UNROLLED] = {};
  std::int64_t t = 0;
  for (; t + UNROLLED * S::lanes <= size; t += UNROLLED * S::lanes)
    for (int u = 0; u < UNROLLED; ++u) {
      const auto gradient = S::load(g + t + u * S::lanes);
      product[u] += gradient * (S::load(x + t + u * S::lanes) - center);
      sum[u] += gradient;
    }
  for (; t + S::lanes <= size; t += S::lanes) {
    const auto gradient = S::load(g + t);
    product[0] += gradient * (S::load(x + t) - center);
    sum[0] += gradient;
  }
  T last_product = 0, last_sum = 0;
  for (; t < size; ++t) {
    last_product += g[t] * (x[t] - center);
    last_sum += g[t];
  }
  products[0] = (S::total(product[0] + product[1] + (product[2] + product[3])) + last_product) * scale;
  sums[0] = S::total(sum[0] + sum[1] + (sum[2] + sum[3])) + last_sum;
}

template <typename T>
void row_sums(const T* x, const T* g, std::int64_t rows, std::int64_t size, double eps, bool is_centered,
              T* products, T* sums) {
  for (std::int64_t i = 0; i < size; ++i) products[i] = sums[i] = 0;
  for (std::int64_t row = 0; row < rows; ++row, x += size, g += size) {
    T mean, scale;
    moments(x, size, eps, is_centered, &mean, &scale);
    for (std::int64_t i = 0; i < size; ++i) {
      products[i] += g[i] * ((x[i] - mean) * scale);
      sums[i] += g[i];
    }
  }
}

template void plane_sums(const float*, const float*, std::int64_t, float, float, float*, float*);
template void plane_sums(const double*, const double*, std::int64_t, double, double, double*, double*);
template void row_sums(const float*, const float*, std::int64_t, std::int64_t, double, bool, float*, float*);
template void row_sums(const double*, const double*, std::int64_t, std::int64_t, double, bool, double*,
                       double*);

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
