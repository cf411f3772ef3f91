// SPDX-License-Identifier: BSD-3-Clause
// The Python module unlearnkit._C: a line an operator. It knows nothing of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"
#include "kernels.h"

#define TEXT_OF(token) #token
#define TEXT(macro) TEXT_OF(macro)

namespace py = pybind11;
using namespace unlearnkit;

#if defined(__clang__)
constexpr const char* compiler = __VERSION__;  // begins with "Clang"
#else
constexpr const char* compiler = "GCC " __VERSION__;
#endif

constexpr const char* isa_names[] = {"portable", "x86-64-v3", "x86-64-v4"};

// The macros UNLEARNKIT_* are given by setup.py.
py::dict build_info() {
  py::dict info;
  info["native"] = true;
  info["compiler"] = compiler;
  info["standard"] = "C++" + std::to_string(__cplusplus / 100 % 100);
#if defined(_OPENMP)
  info["threads"] = "OpenMP";
#else
  info["threads"] = "std::thread";
#endif
  info["isa"] = isa_names[static_cast<int>(isa())];
  info["cuda"] = UNLEARNKIT_CUDA != 0;
  info["flags"] = TEXT(UNLEARNKIT_FLAGS);
  return info;
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of unlearnkit; call them through unlearnkit.ops.";
  m.def("build_info", &build_info, "How this module was built, and for which processor it has chosen.");
  m.def("best_isa", [] { return static_cast<int>(best_isa()); }, "The best instructions that can be used.");
  m.def("use_isa", [](int wanted) { use_isa(static_cast<Isa>(wanted)); }, "For tests: use lesser ones.");
  const py::call_guard<py::gil_scoped_release> no_gil;
  m.def("channel_scores_cpu", &channel_scores_cpu, no_gil);
  m.def("dampen_cpu", &dampen_cpu, no_gil);
  m.def("kth_value_cpu", &kth_value_cpu, no_gil);
#if UNLEARNKIT_CUDA
  m.def("channel_scores_cuda", &channel_scores_cuda, no_gil);
  m.def("dampen_cuda", &dampen_cuda, no_gil);
  m.def("kth_value_cuda", &kth_value_cuda, no_gil);
#endif
}
