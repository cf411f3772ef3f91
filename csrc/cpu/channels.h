// SPDX-License-Identifier: BSD-3-Clause
// Scores of some rows of one tensor, each `length` elements in a row.
#pragma once
#include <cstdint>

#include "isa.h"

namespace unlearnkit {

constexpr int filter_block = 16;

// out[r] = the mean of the top h of |w g| in row r. The scratch holds a row and filter_block more; where
// h >= length it is not used.
UNLEARNKIT_EACH_ISA(void score_rows(const float* w, const float* g, float* out, std::int64_t rows,
                                    std::int64_t length, std::int64_t h, void* scratch);
                    void score_rows(const double* w, const double* g, double* out, std::int64_t rows,
                                    std::int64_t length, std::int64_t h, void* scratch))

}  // namespace unlearnkit
