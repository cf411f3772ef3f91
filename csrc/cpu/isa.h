// SPDX-License-Identifier: BSD-3-Clause
// Which instructions this processor has. Files in cpu/isa/ are compiled once for each of the namespaces
// below, with UNLEARNKIT_ISA set to its name; the choice among them falls at run time.
//
// Such a file keeps to its own namespace and to plain C: an inline function of a header that two of them
// share (a std::vector's, say) is merged by the linker, perhaps into the copy this processor cannot run.
#pragma once

namespace unlearnkit {

enum class Isa : int { portable = 0, v3 = 1, v4 = 2 };  // x86-64-v3: AVX2 and FMA; v4: AVX-512

Isa best_isa();     // the best that was built and that this processor runs
Isa isa();          // the one in use
void use_isa(Isa);  // for tests; a better one than best_isa() is not taken

}  // namespace unlearnkit

// Calls a function of the namespace in use: UNLEARNKIT_DISPATCH(add, a, b)
#if UNLEARNKIT_X86
#define UNLEARNKIT_DISPATCH(function, ...)                  \
  (isa() == Isa::v4   ? v4::function(__VA_ARGS__)           \
   : isa() == Isa::v3 ? v3::function(__VA_ARGS__)           \
                      : portable::function(__VA_ARGS__))
#define UNLEARNKIT_EACH_ISA(declaration) \
  namespace portable { declaration; }    \
  namespace v3 { declaration; }          \
  namespace v4 { declaration; }
#else
#define UNLEARNKIT_DISPATCH(function, ...) portable::function(__VA_ARGS__)
#define UNLEARNKIT_EACH_ISA(declaration) \
  namespace portable { declaration; }
#endif
