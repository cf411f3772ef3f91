// SPDX-License-Identifier: BSD-3-Clause
// square_sum's CUDA kernels on the emulator, as C functions for test_square_sum.py. All files at once: that
// compiles in a fifth of the time.
#include <string>

#include "cuda/square_sum.cu"
#include "cuda/square_sum_double.cu"
#include "cuda/square_sum_simt.cu"
#include "cuda/square_sum_taps.cu"
#include "cuda/square_sum_tensor.cu"

using namespace unlearnkit;

namespace {
std::string message;
}

extern "C" const char* last_error() { return message.c_str(); }

// Five numbers each of x_sizes, x_strides, g_sizes and g_strides, three each of kernel, stride, padding and
// dilation, and groups.
Convolution convolution(const std::int64_t* numbers) {
  const auto take = [&](int count) {
    numbers += count;
    return Sizes(numbers - count, numbers);
  };
  Convolution c;
  c.x_sizes = take(5), c.x_strides = take(5), c.g_sizes = take(5), c.g_strides = take(5);
  c.kernel = take(3), c.stride = take(3), c.padding = take(3), c.dilation = take(3);
  c.groups = *numbers;
  return c;
}

extern "C" std::int64_t workspace_bytes(const std::int64_t* numbers, int dtype, int processors) {
  return square_sum_cuda_workspace(convolution(numbers), static_cast<Dtype>(dtype), processors);
}

extern "C" int remainder_of(int number, std::int64_t by) {
  Divisor(by).divide(number);
  return number;
}

extern "C" bool square_sum(const std::int64_t* numbers, const void* x, const void* g, void* total, int dtype,
                           int total_dtype, void* workspace, std::int64_t bytes, int precision,
                           unsigned seed) {
  try {
    cuda_emulation::emulator.seed(seed);
    const auto address = [](const void* data) { return reinterpret_cast<Address>(data); };
    square_sum_cuda(convolution(numbers), address(x), address(g), address(total),
                    static_cast<Dtype>(dtype), static_cast<Dtype>(total_dtype), address(workspace), bytes,
                    precision, 0, 0);
    return true;
  } catch (const std::exception& error) {
    message = error.what();
    return false;
  }
}
