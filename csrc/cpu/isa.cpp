// SPDX-License-Identifier: BSD-3-Clause
#include "isa.h"

#include <atomic>

namespace unlearnkit {

Isa best_isa() {
#if UNLEARNKIT_X86
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::v4;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::v3;
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
