// SPDX-License-Identifier: BSD-3-Clause
// Every kernel's declaration: raw addresses, sizes, a thread count or a stream. Nothing here knows torch
// or Python. What a kernel computes is said beside its operator in unlearnkit/ops/.
#pragma once
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

namespace unlearnkit {

using Address = std::uintptr_t;  // of a tensor's first element
using Sizes = std::vector<std::int64_t>;
using Addresses = std::vector<Address>;

enum class Dtype : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3 };  // as ops/_native.py

// A convolution of x with a gradient g; a token Linear is one with a kernel of one tap.
struct Convolution {
  // [N, G * C, D, H, W] and [N, G * O, D', H', W'], with strides counted in elements
  Sizes x_sizes, x_strides, g_sizes, g_strides;
  Sizes kernel, stride, padding, dilation;  // three numbers each
  std::int64_t groups;
};

// total [G * O, C, *kernel], float64 or of x's dtype, takes in the sums over samples of squared gradients.
// The workspace's bytes depend on the instruction set in use; -1: too large for this kernel.
std::int64_t square_sum_cpu_workspace(const Convolution&, Dtype);
void square_sum_cpu(const Convolution&, Address x, Address g, Address total, Dtype, Dtype total_dtype,
                    Address workspace, int threads);
// Likewise; the workspace depends on how many processors the device has, and with less of it fewer blocks
// work at once. The precision is a number of unlearnkit.ops.squares.PRECISIONS, read for float32 alone.
std::int64_t square_sum_cuda_workspace(const Convolution&, Dtype, int processors);
void square_sum_cuda(const Convolution&, Address x, Address g, Address total, Dtype, Dtype total_dtype,
                     Address workspace, std::int64_t workspace_bytes, int precision, int device, Address stream);

// Of x and g [samples, channels, size], with center and scale [channels] if is_shared, else
// [samples, channels]: products and sums [samples, channels].
void plane_sums_cpu(Address x, Address g, Address center, Address scale, Address products, Address sums,
                    Dtype, std::int64_t samples, std::int64_t channels, std::int64_t size, bool is_shared,
                    int threads);

// Of x and g [samples, count, size], rows of which are normalised: products and sums [samples, size].
void row_sums_cpu(Address x, Address g, Address products, Address sums, Dtype, std::int64_t samples,
                  std::int64_t count, std::int64_t size, double eps, bool is_centered, int threads);

// Lists of tensors: an address, a size and a dtype each.
void channel_scores_cpu(const Addresses& weights, const Addresses& gradients, const Addresses& out,
                        const Sizes& rows, const Sizes& lengths, const Sizes& h, const std::vector<int>& dtypes,
                        int threads);
Sizes dampen_cpu(const Addresses& weights, const Addresses& forget, const Addresses& reference,
                 const Sizes& sizes, const std::vector<int>& weight_dtypes,
                 const std::vector<int>& importance_dtypes, double alpha, double lambda, int threads);
std::tuple<std::int64_t, double, double> kth_value_cpu(const Addresses& addresses, const Sizes& sizes,
                                                       const std::vector<int>& dtypes, bool is_double,
                                                       std::int64_t k, double quantile, int threads);
// The same on CUDA: `table` is in device memory, with a row a tensor as ops/_cuda.py writes them. It cuts each
// tensor into chunks of so many elements, a multiple of 4, or into blocks of rows.
void channel_scores_cuda(Address table, std::int64_t tensors, std::int64_t blocks, int device, Address stream);
void dampen_cuda(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks, int importance_dtype,
                 double alpha, double lambda, Address touched, int device, Address stream);
// What is found is written to the workspace: n (int64), and the two values (float64).
void kth_value_cuda(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks, bool is_double,
                    std::int64_t k, double quantile, Address workspace, int processors, int device,
                    Address stream);

}  // namespace unlearnkit
