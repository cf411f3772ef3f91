// SPDX-License-Identifier: BSD-3-Clause
// What norms.cpp shares with isa/norms.cpp.
#pragma once
#include <cstdint>

#include "isa.h"

namespace unlearnkit {

UNLEARNKIT_EACH_ISA(
    // products[0] = scale sum_t g[t] (x[t] - center), sums[0] = sum_t g[t]
    template <typename T> void plane_sums(const T* x, const T* g, std::int64_t size, T center, T scale,
                                          T* products, T* sums);
    // products[i] = sum_t g[t, i] (x[t, i] - mean_t) / sqrt(var_t + eps), sums[i] = sum_t g[t, i], where
    // mean and variance are those of row t; the mean is 0 and var the mean square if not is_centered
    template <typename T> void row_sums(const T* x, const T* g, std::int64_t rows, std::int64_t size,
                                        double eps, bool is_centered, T* products, T* sums))

}  // namespace unlearnkit
