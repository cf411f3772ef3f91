// SPDX-License-Identifier: BSD-3-Clause
// Per-sample gradients of affine norm layers: hands out the work of isa/norms.cpp.
#include "norms.h"

#include "kernels.h"
#include "parallel.h"

namespace unlearnkit {
namespace {

constexpr std::int64_t TASK_NUMBERS = 1 << 15;  // of a task: fewer are not worth handing out

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
void planes(Address x, Address g, Address center, Address scale, Address products, Address sums,
            std::int64_t samples, std::int64_t channels, std::int64_t size, bool is_shared, int threads) {
  const std::int64_t all = samples * channels;
  const std::int64_t step = 1 + TASK_NUMBERS / (size + 1);
  parallel_for((all + step - 1) / step, threads, [&](std::int64_t task, int) {
    for (std::int64_t p = task * step; p < all && p < (task + 1) * step; ++p) {
      const std::int64_t at_scale = is_shared ? p % channels : p;
      UNLEARNKIT_DISPATCH(plane_sums, at<const T>(x) + p * size, at<const T>(g) + p * size, size,
                          at<const T>(center)[at_scale], at<const T>(scale)[at_scale],
                          at<T>(products) + p, at<T>(sums) + p);
    }
  });
}

template <typename T>
void rows(Address x, Address g, Address products, Address sums, std::int64_t samples, std::int64_t count,
          std::int64_t size, double eps, bool is_centered, int threads) {
  parallel_for(samples, threads, [&](std::int64_t n, int) {
    const std::int64_t start = n * count * size;
    UNLEARNKIT_DISPATCH(row_sums, at<const T>(x) + start, at<const T>(g) + start, count, size, eps,
                        is_centered, at<T>(products) + n * size, at<T>(sums) + n * size);
  });
}

}  // namespace

void plane_sums_cpu(Address x, Address g, Address center, Address scale, Address products, Address sums,
                    Dtype dtype, std::int64_t samples, std::int64_t channels, std::int64_t size,
                    bool is_shared, int threads) {
  (dtype == Dtype::float64 ? planes<double> : planes<float>)(x, g, center, scale, products, sums, samples,
                                                             channels, size, is_shared, threads);
}

void row_sums_cpu(Address x, Address g, Address products, Address sums, Dtype dtype, std::int64_t samples,
                  std::int64_t count, std::int64_t size, double eps, bool is_centered, int threads) {
  (dtype == Dtype::float64 ? rows<double> : rows<float>)(x, g, products, sums, samples, count, size, eps,
                                                         is_centered, threads);
}

}  // namespace unlearnkit
