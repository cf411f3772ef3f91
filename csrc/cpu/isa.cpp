// SPDX-License-Identifier: BSD-3-Clause
#include "isa.h"

#include <atomic>

namespace unlearnkit {

Isa best_isa() {
#if UNLEARNKIT_X86
  // Their parts: older compilers do not know the levels by name. What else belongs to a level came with these.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4) return Isa::v4;
  if (v3) return Isa::v3;
#endif
  return Isa::portable;
}

static std::atomic<Isa>& current() {
  static std::atomic<Isa> value{best_isa()};
  return value;
}

Isa isa() { return current().load(std::memory_order_relaxed); }

void use_isa(Isa wanted) { current() = wanted < best_isa() ? wanted : best_isa(); }

}  // namespace unlearnkit
