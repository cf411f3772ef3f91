// SPDX-License-Identifier: BSD-3-Clause
// The operator square_sum on CUDA: which kernel computes a problem, and how many blocks share its samples.
#include "square_sum.cuh"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>

#include "launch.cuh"

namespace unlearnkit {
namespace {

std::int64_t product(const Sizes& sizes) {
  std::int64_t all = 1;
  for (const std::int64_t size : sizes) all *= size;
  return all;
}

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// x or g: its strides, those of a single step made zero since they may be anything.
Operand operand(Address data, const Sizes& sizes, const Sizes& strides) {
  std::array<std::int64_t, 5> used;
  for (int i = 0; i < 5; ++i) used[i] = sizes[i] == 1 ? 0 : strides[i];
  return {reinterpret_cast<const void*>(data), used[0], used[1], used[2], used[3], used[4], Along::positions};
}

// Which way an operand is copied: threads lie along what lies closest in memory.
Along along(const Operand& of, int rows, int groups, int vector) {
  const auto aligned = [&](std::initializer_list<std::int64_t> strides) {
    bool all = reinterpret_cast<std::uintptr_t>(of.data) % 16 == 0;
    for (const std::int64_t stride : strides) all = all && stride % vector == 0;
    return all;
  };
  for (const std::int64_t stride : {of.d, of.h, of.w})
    if (of.row == 0 || (stride != 0 && std::abs(stride) < std::abs(of.row)))
      return aligned({of.sample, of.row}) ? Along::position_vectors : Along::positions;
  const bool whole = of.row == 1 && (groups == 1 || rows % vector == 0);
  return whole && aligned({of.sample, of.d, of.h, of.w}) ? Along::row_vectors : Along::rows;
}

// Whether positions that follow each other lie side by side.
bool is_flat(const Operand& of, const Sizes& sizes, int vector) {
  const std::int64_t strides[] = {of.d, of.h, of.w};
  std::int64_t step = 1;
  for (int i = 2; i >= 0; step *= sizes[2 + i], --i)
    if (sizes[2 + i] != 1 && strides[i] != step) return false;
  return step % vector == 0;
}

// Few weights a group leave most of a tile empty.
bool by_taps(const SquareSum& p) {
  const std::int64_t tiles = ceil_divide(p.outputs, 64) * ceil_divide(p.columns(), TILE_COLUMNS);
  return std::int64_t{p.outputs} * p.columns() * 10 < tiles * 64 * TILE_COLUMNS;
}

// Tiles of 128 rows read less, but may waste more on the last rows.
int tile_rows(const SquareSum& p, bool is_double) {
  return !is_double && ceil_divide(p.outputs, 128) * 128 <= ceil_divide(p.outputs, 64) * 64 ? 128 : 64;
}

// Into how many slices to cut the samples, so that all processors work, and finish together.
int best_slices(const SquareSum& p, bool is_double, int processors) {
  std::int64_t tiles, resident, at_once = 1, steps;  // blocks to fill a processor; samples, of so many steps
  if (by_taps(p)) {
    tiles = ceil_divide(p.taps, BLOCK_TAPS) * p.channels * p.outputs * p.groups;
    resident = at_once = 4;
    steps = ceil_divide(p.positions, 32);
  } else {
    const int rows = tile_rows(p, is_double);
    tiles = ceil_divide(p.outputs, rows) * ceil_divide(p.columns(), TILE_COLUMNS) * p.groups;
    resident = is_double ? 1 : rows == 128 ? 2 : 4;
    steps = ceil_divide(p.positions, 16);
  }
  std::int64_t most = std::max<std::int64_t>(1, 4 * resident * processors / tiles);
  most = std::min<std::int64_t>({most, p.samples, 65535});  // grid.y
  std::int64_t best = 1, least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t slices = 1; slices <= most; ++slices) {
    // A block takes some steps to start and to end. Few blocks leave a processor waiting as long as more
    // would have it at work. What the slices write is read again.
    const std::int64_t block = ceil_divide(ceil_divide(p.samples, slices), at_once) * steps + 8;
    const std::int64_t busiest = ceil_divide(tiles * slices, processors);
    const std::int64_t cost = std::max(busiest, resident) * block + (slices > 1 ? tiles * slices / 32 : 0);
    if (cost < least) best = slices, least = cost;
  }
  return static_cast<int>(best);
}

struct TooLarge : std::invalid_argument {
  TooLarge() : std::invalid_argument("square_sum: the problem is too large for its CUDA kernel") {}
};

int narrow(std::int64_t number) {
  if (number < 0 || number >= -NOWHERE) throw TooLarge();
  return static_cast<int>(number);
}

SquareSum problem(const Convolution& c, Address x, Address g, bool is_double) {
  SquareSum p{};
  p.x = operand(x, c.x_sizes, c.x_strides);
  p.g = operand(g, c.g_sizes, c.g_strides);
  p.samples = narrow(c.x_sizes[0]);
  p.groups = narrow(c.groups);
  p.channels = narrow(c.x_sizes[1] / c.groups);
  p.outputs = narrow(c.g_sizes[1] / c.groups);
  p.positions = narrow(c.g_sizes[2] * c.g_sizes[3] * c.g_sizes[4]);
  p.taps = narrow(product(c.kernel));
  narrow(std::int64_t{p.channels} * p.taps);
  if (p.elements() >= std::int64_t{1} << 31) throw TooLarge();  // grid.x, with a block an element at worst
  for (int i = 0; i < 3; ++i) {
    p.size[i] = narrow(c.x_sizes[i + 2]);
    p.stride[i] = narrow(c.stride[i]);
    p.padding[i] = narrow(c.padding[i]);
    p.dilation[i] = narrow(c.dilation[i]);
    narrow((c.g_sizes[i + 2] - 1) * c.stride[i] + (c.kernel[i] - 1) * c.dilation[i]);
  }
  p.kernel_h = Divisor(c.kernel[1]);
  p.kernel_w = Divisor(c.kernel[2]);
  p.g_h = Divisor(c.g_sizes[3]);
  p.g_w = Divisor(c.g_sizes[4]);

  const int vector = is_double ? 2 : 4;
  p.g.along = along(p.g, p.outputs, p.groups, vector);
  p.x.along = along(p.x, p.channels, p.groups, vector);
  bool plain = p.taps == 1;  // so that a position of g is that of x
  for (int i = 0; i < 3; ++i)
    plain = plain && c.stride[i] == 1 && c.padding[i] == 0 && c.x_sizes[i + 2] == c.g_sizes[i + 2];
  if (p.g.along == Along::position_vectors && !is_flat(p.g, c.g_sizes, vector)) p.g.along = Along::positions;
  if (p.x.along == Along::position_vectors && !(plain && is_flat(p.x, c.x_sizes, vector)))
    p.x.along = Along::positions;
  if (p.x.along == Along::row_vectors && p.channels % vector != 0) p.x.along = Along::rows;
  p.taps_outside = p.x.along >= Along::rows && !by_taps(p);
  p.inner = Divisor(p.taps_outside ? p.channels : p.taps);
  return p;
}

bool is_empty(const Convolution& c) {
  return product(c.x_sizes) == 0 || product(c.g_sizes) == 0 || product(c.kernel) == 0;
}

bool checked_double(Dtype dtype) {
  if (dtype != Dtype::float32 && dtype != Dtype::float64)
    throw std::invalid_argument("square_sum: x, g and total are float32 or float64");
  return dtype == Dtype::float64;
}

}  // namespace

std::int64_t square_sum_cuda_workspace(const Convolution& c, Dtype dtype, int processors) {
  const bool is_double = checked_double(dtype);
  if (is_empty(c)) return 0;
  try {
    const SquareSum p = problem(c, 0, 0, is_double);
    const std::int64_t slices = best_slices(p, is_double, processors);
    return slices == 1 ? 0 : slices * p.elements() * (is_double ? 8 : 4);
  } catch (const TooLarge&) {
    return -1;
  }
}

void square_sum_cuda(const Convolution& c, Address x, Address g, Address total, Dtype dtype,
                     Dtype total_dtype, Address workspace, std::int64_t workspace_bytes, int precision,
                     int device, Address stream) {
  const bool is_double = checked_double(dtype);
  if (is_empty(c)) return;
  SquareSum p = problem(c, x, g, is_double);
  p.total = reinterpret_cast<void*>(total);
  p.total_is_double = checked_double(total_dtype);
  if (is_double && !p.total_is_double) throw std::invalid_argument("square_sum: total is narrower than x");
  p.workspace = reinterpret_cast<void*>(workspace);
  const std::int64_t room = workspace_bytes / (p.elements() * (is_double ? 8 : 4));
  p.slices = static_cast<int>(std::clamp<std::int64_t>(room, 1, std::min(p.samples, 65535)));

  use_device(device);
  const cudaStream_t on = stream_at(stream);
  const auto wanted = static_cast<Precision>(precision);
  const bool by_position = std::min(p.g.along, p.x.along) < Along::rows;  // tensor cores take either layout
  if (by_taps(p))
    square_sum_taps(p, is_double, on);
  else if (is_double)
    square_sum_double(p, on);
  else if (wanted == Precision::simt)
    square_sum_simt(p, tile_rows(p, false), on);
  else
    square_sum_tensor(p, tile_rows(p, false), by_position, wanted, on);
  if (p.slices > 1) square_sum_slices(p, is_double, on);
}

}  // namespace unlearnkit
