// SPDX-License-Identifier: BSD-3-Clause
// The kernels over lists of tensors on the emulator, as C functions for test_lists.py; false: see error().
#include <cuda_runtime.h>

#include <string>

#include "kernels.h"

using namespace unlearnkit;

namespace {
std::string message;

template <class Run>
bool guarded(const Run& run) {
  try {
    run();
    return true;
  } catch (const std::exception& error) {
    message = error.what();
    return false;
  }
}
}  // namespace

extern "C" const char* error() { return message.c_str(); }

extern "C" void seed(unsigned value) { cuda_emulation::emulator.seed(value); }

extern "C" bool channel_scores(Address table, std::int64_t tensors, std::int64_t blocks, int device,
                               Address stream) {
  return guarded([&] { channel_scores_cuda(table, tensors, blocks, device, stream); });
}

extern "C" bool dampen(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks,
                       int importance_dtype, double alpha, double lambda, Address touched, int device,
                       Address stream) {
  return guarded([&] {
    dampen_cuda(table, tensors, chunk, chunks, importance_dtype, alpha, lambda, touched, device, stream);
  });
}

extern "C" bool kth_value(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks,
                          bool is_double, std::int64_t k, double quantile, Address workspace, int processors,
                          int device, Address stream) {
  return guarded([&] {
    kth_value_cuda(table, tensors, chunk, chunks, is_double, k, quantile, workspace, processors, device, stream);
  });
}
