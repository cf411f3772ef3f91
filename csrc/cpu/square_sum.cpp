// SPDX-License-Identifier: BSD-3-Clause
// Sums of squared per-sample gradients of a convolution: plans the work of isa/square_sum.cpp. A few
// samples at a time are packed, then every block of the result takes them in. What is added to an element,
// and in which order, depends on the sizes alone: any number of threads gives the same bits.
#include "square_sum.h"

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "parallel.h"

namespace unlearnkit {
namespace {

constexpr std::int64_t CHUNK_BYTES = 2 << 20;     // of packed samples: they are read again from the cache
constexpr std::int64_t CHUNK_POSITIONS = 3072;    // or, if this is more, so many that the sums pay off

std::int64_t round_up(std::int64_t size, std::int64_t unit) { return (size + unit - 1) / unit * unit; }

constexpr std::int64_t NONE = -1;

// From one position to the next over the last three dimensions, or NONE where that is no one number.
std::int64_t uniform_step(const Sizes& sizes, const Sizes& strides) {
  std::int64_t step = NONE, length = 1;
  for (int d = 4; d >= 2; --d) {
    if (sizes[d] == 1) continue;
    if (step == NONE) step = strides[d];
    if (strides[d] != step * length) return NONE;
    length *= sizes[d];
  }
  return step == NONE ? 0 : step;
}

bool is_empty(const Convolution& conv) {
  std::int64_t numbers = 1;
  for (int d = 0; d < 5; ++d) numbers *= conv.x_sizes[d] * conv.g_sizes[d];
  return numbers == 0;
}

// A kernel of one tap reads every stride-th number alone: strides of x say that as well.
Convolution without_gaps(Convolution conv) {
  for (int d = 0; d < 3; ++d)
    if (conv.kernel[d] == 1 && conv.padding[d] == 0 && conv.x_sizes[2 + d] >= conv.g_sizes[2 + d]) {
      conv.x_strides[2 + d] *= conv.stride[d];
      conv.x_sizes[2 + d] = conv.g_sizes[2 + d];
      conv.stride[d] = 1;
    }
  return conv;
}

struct Plan {
  Convolution conv;
  bool is_double;
  std::int64_t samples, groups, channels, outputs, taps, inputs, positions;
  bool is_tokens;  // one tap: x is packed in panels of TILE_INPUTS channels, position by position
  bool is_planes;  // few outputs a group
  std::int64_t space[3];      // of a packed plane of x: what the taps reach
  std::int64_t columns;       // of a plane: those of one phase of the stride, which lie side by side
  std::int64_t plane;         // numbers in a packed plane
  std::int64_t x_group, x_sample, g_group, g_sample, g_plane;  // numbers, packed
  int block, lanes;
  std::int64_t chunk;         // samples packed at a time
  std::vector<std::int64_t> tap;
  std::vector<std::int32_t> position;
  struct Phase {
    std::int64_t from, to, count;  // columns of x that follow each other in a packed row
  };
  std::vector<Phase> phases;
  bool has_margin;  // beside them in a row

  Plan(const Convolution& convolution, bool wide) : conv(without_gaps(convolution)), is_double(wide) {
    const Sizes &x = conv.x_sizes, &g = conv.g_sizes;
    samples = x[0], groups = conv.groups, channels = x[1] / groups, outputs = g[1] / groups;
    taps = conv.kernel[0] * conv.kernel[1] * conv.kernel[2];
    inputs = channels * taps, positions = g[2] * g[3] * g[4];
    block = UNLEARNKIT_DISPATCH(block_outputs, is_double);
    lanes = UNLEARNKIT_DISPATCH(lanes, is_double);
    is_planes = outputs <= lanes / 4;
    bool plain = taps == 1 && conv.x_strides[1] == 1 && uniform_step(x, conv.x_strides) != NONE;
    for (int d = 0; d < 3; ++d) {
      plain = plain && conv.stride[d] == 1 && conv.padding[d] == 0 && x[2 + d] == g[2 + d];
      space[d] = (g[2 + d] - 1) * conv.stride[d] + (conv.kernel[d] - 1) * conv.dilation[d] + 1;
    }
    is_tokens = plain && !is_planes;
    columns = round_up(space[2], conv.stride[2]) / conv.stride[2];
    plane = space[0] * space[1] * row() + (is_planes ? lanes : 0);
    x_group = is_tokens ? round_up(channels, TILE_INPUTS) * positions : channels * plane;
    g_plane = round_up(start_of(g[2] - 1, g[3] - 1) + g[4], lanes);
    g_group = is_planes ? outputs * g_plane : round_up(outputs, lanes) * positions;
    x_sample = groups * x_group, g_sample = groups * g_group;
    chunk = std::max(CHUNK_BYTES / (sample_numbers() * (is_double ? 8 : 4)),
                     CHUNK_POSITIONS / std::max<std::int64_t>(positions, 1));
    const std::int64_t chunks = (samples - 1) / std::max<std::int64_t>(chunk, 1) + 1;
    chunk = (samples + chunks - 1) / chunks;  // all of about one size
  }

  std::int64_t row() const { return columns * conv.stride[2]; }
  std::int64_t sample_numbers() const { return x_sample + g_sample; }

  void make_tables() {
    tap.resize(inputs), position.resize(positions);
    const std::int64_t padding = conv.padding[2], stride = conv.stride[2], width = conv.x_sizes[4];
    std::int64_t copied = 0;
    for (std::int64_t p = 0; p < stride; ++p) {
      // the columns w of x that there are with (w + padding) % stride == p, up to where the taps reach
      const std::int64_t w = padding > p ? (padding - p + stride - 1) / stride * stride + p - padding : p - padding;
      const std::int64_t last = std::min(space[2] - padding, width);  // exclusive
      const std::int64_t count = last > w ? (last - w + stride - 1) / stride : 0;
      phases.push_back({w, p * columns + (w + padding) / stride, count});
      copied += count;
    }
    has_margin = copied < row();
    if (is_tokens) {
      for (std::int64_t i = 0; i < inputs; ++i)
        tap[i] = i / TILE_INPUTS * TILE_INPUTS * positions + i % TILE_INPUTS;
      for (std::int64_t t = 0; t < positions; ++t) position[t] = static_cast<std::int32_t>(t * TILE_INPUTS);
      return;
    }
    std::int64_t i = 0, t = 0;
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t a = 0; a < conv.kernel[0]; ++a)
        for (std::int64_t b = 0; b < conv.kernel[1]; ++b)
          for (std::int64_t k = 0; k < conv.kernel[2]; ++k) {
            const std::int64_t w = k * conv.dilation[2];
            tap[i++] = c * plane + (a * conv.dilation[0] * space[1] + b * conv.dilation[1]) * row() +
                       w % conv.stride[2] * columns + w / conv.stride[2];
          }
    for (std::int64_t a = 0; a < conv.g_sizes[2]; ++a)
      for (std::int64_t b = 0; b < conv.g_sizes[3]; ++b)
        for (std::int64_t k = 0; k < conv.g_sizes[4]; ++k) position[t++] = start_of(a, b) + k;
  }

  std::int32_t start_of(std::int64_t a, std::int64_t b) const {  // of a row of positions
    return static_cast<std::int32_t>((a * conv.stride[0] * space[1] + b * conv.stride[1]) * row());
  }

  // Writes a channel of a sample of x with its padding, phase by phase of the stride.
  template <typename T>
  void pack_plane(const T* x, std::int64_t channel, T* to) const {
    x += channel * conv.x_strides[1];
    const std::int64_t stride = conv.stride[2], step = conv.x_strides[4];
    for (std::int64_t a = 0; a < space[0]; ++a)
      for (std::int64_t b = 0; b < space[1]; ++b, to += row()) {
        const std::int64_t d = a - conv.padding[0], h = b - conv.padding[1];
        const bool is_inside = d >= 0 && d < conv.x_sizes[2] && h >= 0 && h < conv.x_sizes[3];
        if (!is_inside || has_margin) std::fill_n(to, row(), T{0});
        if (!is_inside) continue;
        const T* from = x + d * conv.x_strides[2] + h * conv.x_strides[3];
        for (const Phase& phase : phases) {
          T* out = to + phase.to;
          if (stride == 1 && step == 1) {
            std::copy_n(from + phase.from, phase.count, out);
            continue;
          }
          const T* in = from + phase.from * step;
          for (std::int64_t k = 0; k < phase.count; ++k) out[k] = in[k * stride * step];
        }
      }
    if (is_planes) std::memset(to, 0, sizeof(T) * lanes);
  }

  // Writes one output's gradients on the grid of a plane of x, zero in between.
  template <typename T>
  void pack_gradient(const T* g, std::int64_t output, T* to) const {
    g += output * conv.g_strides[1];
    std::memset(to, 0, sizeof(T) * g_plane);
    for (std::int64_t a = 0; a < conv.g_sizes[2]; ++a)
      for (std::int64_t b = 0; b < conv.g_sizes[3]; ++b) {
        const T* from = g + a * conv.g_strides[2] + b * conv.g_strides[3];
        T* out = to + start_of(a, b);
        for (std::int64_t k = 0; k < conv.g_sizes[4]; ++k) out[k] = from[k * conv.g_strides[4]];
      }
  }

  // Writes rows (channels or outputs) of a sample as [positions, width].
  template <typename T>
  void pack_transposed(const T* from, const Sizes& sizes, const Sizes& strides, int rows, int width,
                       T* to) const {
    TransposeBlock part{from, strides[1], uniform_step(sizes, strides), positions, rows, width, to};
    if (part.column != NONE) {
      UNLEARNKIT_DISPATCH(transpose, part, is_double);
      return;
    }
    part.column = strides[4], part.columns = sizes[4];
    for (std::int64_t a = 0; a < sizes[2]; ++a)
      for (std::int64_t b = 0; b < sizes[3]; ++b) {
        part.from = from + a * strides[2] + b * strides[3];
        part.to = to + (a * sizes[3] + b) * sizes[4] * width;
        UNLEARNKIT_DISPATCH(transpose, part, is_double);
      }
  }
};

template <typename T>
struct Run {
  Plan plan;
  const T *x, *g;
  T *packed_x, *packed_g;
  void* total;
  bool wide_total;
  int threads;

  void operator()() {
    for (std::int64_t start = 0; start < plan.samples; start += plan.chunk) {
      const std::int64_t count = std::min(plan.chunk, plan.samples - start);
      pack(start, count);
      plan.is_planes ? add_planes(count) : add_blocks(count);
    }
  }

  void pack(std::int64_t start, std::int64_t count) {
    const Plan& p = plan;
    const std::int64_t x_unit = p.is_tokens ? TILE_INPUTS : 1, g_unit = p.is_planes ? 1 : p.block;
    const std::int64_t x_parts = (p.channels + x_unit - 1) / x_unit;  // of a group
    const std::int64_t g_parts = (p.outputs + g_unit - 1) / g_unit;
    const std::int64_t parts = p.groups * (x_parts + g_parts);
    // one task is some parts of one sample: enough work to be worth handing out
    const std::int64_t tasks = std::min<std::int64_t>(parts, 16);
    parallel_for(count * tasks, threads, [&](std::int64_t task, int) {
      const std::int64_t n = task / tasks;
      const std::int64_t stop = parts * (task % tasks + 1) / tasks;
      for (std::int64_t part = parts * (task % tasks) / tasks; part < stop; ++part) {
        const bool is_x = part < p.groups * x_parts;
        const std::int64_t rest = is_x ? part : part - p.groups * x_parts;
        is_x ? pack_x(start + n, n, rest / x_parts, rest % x_parts * x_unit)
             : pack_g(start + n, n, rest / g_parts, rest % g_parts * g_unit);
      }
    });
  }

  void pack_x(std::int64_t n, std::int64_t slot, std::int64_t group, std::int64_t channel) {
    const Sizes& strides = plan.conv.x_strides;
    const T* from = x + n * strides[0] + group * plan.channels * strides[1];
    T* to = packed_x + slot * plan.x_sample + group * plan.x_group;
    if (!plan.is_tokens) {
      plan.pack_plane(from, channel, to + channel * plan.plane);
      return;
    }
    const int rows = static_cast<int>(std::min<std::int64_t>(TILE_INPUTS, plan.channels - channel));
    plan.pack_transposed(from + channel * strides[1], plan.conv.x_sizes, strides, rows, TILE_INPUTS,
                         to + channel * plan.positions);
  }

  void pack_g(std::int64_t n, std::int64_t slot, std::int64_t group, std::int64_t output) {
    const Sizes& strides = plan.conv.g_strides;
    const T* from = g + n * strides[0] + group * plan.outputs * strides[1];
    T* to = packed_g + slot * plan.g_sample + group * plan.g_group;
    if (plan.is_planes) {
      plan.pack_gradient(from, output, to + output * plan.g_plane);
      return;
    }
    const int rows = static_cast<int>(std::min<std::int64_t>(plan.block, plan.outputs - output));
    const int width = static_cast<int>(round_up(rows, plan.lanes));
    plan.pack_transposed(from + output * strides[1], plan.conv.g_sizes, strides, rows, width,
                         to + output * plan.positions);
  }

  void* total_at(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * plan.inputs + column;
    return static_cast<char*>(total) + at * (wide_total ? 8 : sizeof(T));
  }

  void add_blocks(std::int64_t count) {
    const Plan& p = plan;
    const std::int64_t i_parts = (p.inputs + BLOCK_INPUTS - 1) / BLOCK_INPUTS;
    const std::int64_t o_parts = (p.outputs + p.block - 1) / p.block;
    parallel_for(p.groups * o_parts * i_parts, threads, [&](std::int64_t task, int) {
      const std::int64_t group = task / (o_parts * i_parts);
      const std::int64_t o = task / i_parts % o_parts * p.block, i = task % i_parts * BLOCK_INPUTS;
      SquareSumBlock block{};
      block.x = packed_x + group * p.x_group;
      block.g = packed_g + group * p.g_group + o * p.positions;
      block.x_sample = p.x_sample, block.g_sample = p.g_sample;
      block.tap = p.tap.data() + i, block.position = p.position.data();
      block.positions = p.positions, block.samples = count;
      block.inputs = static_cast<int>(std::min<std::int64_t>(BLOCK_INPUTS, p.inputs - i));
      block.outputs = static_cast<int>(std::min<std::int64_t>(p.block, p.outputs - o));
      block.total = total_at(group * p.outputs + o, i);
      block.total_row = p.inputs, block.wide_total = wide_total;
      UNLEARNKIT_DISPATCH(square_sum, block, p.is_double);
    });
  }

  void add_planes(std::int64_t count) {
    const Plan& p = plan;
    parallel_for(p.groups * p.channels, threads, [&](std::int64_t task, int) {
      const std::int64_t group = task / p.channels, channel = task % p.channels;
      SquareSumPlanes planes{};
      planes.x = packed_x + group * p.x_group + channel * p.plane;
      planes.g = packed_g + group * p.g_group;
      planes.x_sample = p.x_sample, planes.g_sample = p.g_sample, planes.g_plane = p.g_plane;
      planes.tap = p.tap.data(), planes.length = p.g_plane, planes.samples = count;  // of channel 0
      planes.outputs = static_cast<int>(p.outputs), planes.taps = static_cast<int>(p.taps);
      planes.total = total_at(group * p.outputs, channel * p.taps);
      planes.total_row = p.inputs, planes.wide_total = wide_total;
      UNLEARNKIT_DISPATCH(square_sum, planes, p.is_double);
    });
  }
};

template <typename T>
void run(const Convolution& conv, Address x, Address g, Address total, bool wide_total, Address workspace,
         int threads) {
  if (is_empty(conv)) return;
  Plan plan(conv, sizeof(T) == 8);
  plan.make_tables();
  T* packed = reinterpret_cast<T*>(workspace);
  const std::int64_t x_numbers = plan.chunk * plan.x_sample;
  Run<T>{std::move(plan), reinterpret_cast<const T*>(x), reinterpret_cast<const T*>(g),
         packed, packed + x_numbers, reinterpret_cast<void*>(total), wide_total, threads}();
}

}  // namespace

std::int64_t square_sum_cpu_workspace(const Convolution& conv, Dtype dtype) {
  if (is_empty(conv)) return 0;
  const bool is_double = dtype == Dtype::float64;
  const Plan plan(conv, is_double);
  if (plan.plane > INT32_MAX || plan.positions > INT32_MAX / TILE_INPUTS) return -1;  // position's range
  return plan.chunk * plan.sample_numbers() * (is_double ? 8 : 4);
}

void square_sum_cpu(const Convolution& conv, Address x, Address g, Address total, Dtype dtype,
                    Dtype total_dtype, Address workspace, int threads) {
  const bool wide_total = total_dtype == Dtype::float64;
  dtype == Dtype::float64 ? run<double>(conv, x, g, total, wide_total, workspace, threads)
                          : run<float>(conv, x, g, total, wide_total, workspace, threads);
}

}  // namespace unlearnkit
