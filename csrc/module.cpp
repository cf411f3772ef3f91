// SPDX-License-Identifier: BSD-3-Clause
// The Python module unlearnkit._C: a line an operator. It knows nothing of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"
#include "kernels.h"

#define TEXT_OF(...) #__VA_ARGS__
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
  info["cuda_build"] = TEXT(UNLEARNKIT_CUDA_BUILD);
  info["flags"] = TEXT(UNLEARNKIT_FLAGS);
  return info;
}

Convolution convolution(Sizes x_sizes, Sizes x_strides, Sizes g_sizes, Sizes g_strides, Sizes kernel,
                        Sizes stride, Sizes padding, Sizes dilation, std::int64_t groups) {
  return {x_sizes, x_strides, g_sizes, g_strides, kernel, stride, padding, dilation, groups};
}

PYBIND11_MODULE(_C, m) {
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::enum_<Dtype>(m, "Dtype")
      .value("float32", Dtype::float32)
      .value("float64", Dtype::float64)
      .value("float16", Dtype::float16)
      .value("bfloat16", Dtype::bfloat16);
  py::implicitly_convertible<int, Dtype>();
  py::class_<Convolution>(m, "Convolution").def(py::init(&convolution));
  m.doc() = "Compiled kernels of unlearnkit; call them through unlearnkit.ops.";
  m.def("build_info", &build_info, "How this module was built, and for which processor it has chosen.");
  m.def("best_isa", [] { return static_cast<int>(best_isa()); }, "The best instructions that can be used.");
  m.def("square_sum_cpu_workspace", &square_sum_cpu_workspace, unlocked);
  m.def("square_sum_cpu", &square_sum_cpu, unlocked);
  m.def("plane_sums_cpu", &plane_sums_cpu, unlocked);
  m.def("row_sums_cpu", &row_sums_cpu, unlocked);
  m.def("channel_scores_cpu", &channel_scores_cpu, unlocked);
  m.def("dampen_cpu", &dampen_cpu, unlocked);
  m.def("kth_value_cpu", &kth_value_cpu, unlocked);
  m.def("use_isa", [](int wanted) { use_isa(static_cast<Isa>(wanted)); }, "For tests: use lesser ones.");
#if UNLEARNKIT_CUDA
  m.def("square_sum_cuda_workspace", &square_sum_cuda_workspace, unlocked);
  m.def("square_sum_cuda", &square_sum_cuda, unlocked);
  m.def("channel_scores_cuda", &channel_scores_cuda, unlocked);
  m.def("dampen_cuda", &dampen_cuda, unlocked);
  m.def("kth_value_cuda", &kth_value_cuda, unlocked);
#endif
}
