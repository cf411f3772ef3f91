// SPDX-License-Identifier: BSD-3-Clause
// The Python module unlearnkit._C. It knows nothing of torch.
#include <pybind11/pybind11.h>

#define TEXT_OF(token) #token
#define TEXT(macro) TEXT_OF(macro)

namespace py = pybind11;

#if defined(__clang__)
constexpr const char* compiler = __VERSION__;  // begins with "Clang"
#else
constexpr const char* compiler = "GCC " __VERSION__;
#endif

// The macros UNLEARNKIT_* are given by setup.py.
py::dict build_info() {
  py::dict info;
  info["native"] = true;
  info["compiler"] = compiler;
  info["standard"] = "C++" + std::to_string(__cplusplus / 100 % 100);
  info["cuda"] = UNLEARNKIT_CUDA != 0;
  info["flags"] = TEXT(UNLEARNKIT_FLAGS);
  return info;
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of unlearnkit; call them through unlearnkit.ops.";
  m.def("build_info", &build_info, "How this module was built.");
}
