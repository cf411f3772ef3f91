// SPDX-License-Identifier: BSD-3-Clause
// One run of weights, in order of memory. Dtypes are numbered as in kernels.h.
#pragma once
#include <cstdint>

#include "isa.h"

namespace unlearnkit {

struct Run {
  void* weight;
  const void *forget, *reference;
  std::int64_t size;
  int weight_dtype, importance_dtype;
};

// Returns how many weights it has multiplied.
UNLEARNKIT_EACH_ISA(std::int64_t dampen_run(const Run& run, double alpha, double lambda))

}  // namespace unlearnkit
