// SPDX-License-Identifier: BSD-3-Clause
// What square_sum.cpp, which plans and hands out the work, shares with isa/square_sum.cpp, which does it.
//
// Of each sample n the weight's gradient is W[o, i] = sum_t g[o, t] a[t, i], where i = (channel, tap) and
// a[t, i] = x[tap[i] + position[t]]: im2col is these two tables, and is never written out. Outputs lie
// along the vector lanes, so g is packed once to [T, lanes]; x is read a number at a time, and packed only
// to hold its padding.
#pragma once
#include <cstdint>

#include "isa.h"

namespace unlearnkit {

constexpr int TILE_INPUTS = 6;   // rows of a register tile; its columns are whole vectors of outputs
constexpr int BLOCK_INPUTS = 48; // inputs whose sums of squares are kept in the first-level cache

// One block of sums: some inputs times one block of outputs, over some samples.
struct SquareSumBlock {
  const void* x;             // first sample
  const void* g;             // first sample's packed block, [T, width]
  std::int64_t x_sample;     // from one sample to the next, in elements
  std::int64_t g_sample;
  const std::int64_t* tap;   // [inputs]
  const std::int32_t* position;  // [T]
  std::int64_t positions;    // T
  std::int64_t samples;
  int inputs;                // at most BLOCK_INPUTS
  int outputs;               // at most block_outputs(); the block's width is this, rounded up to whole vectors
  void* total;               // of the block's first element; a row an output
  std::int64_t total_row;
  bool wide_total;           // total is float64, whatever x and g are
};

// A matrix [rows, columns] with these strides, written as [columns, width]: rows along the lanes.
struct TransposeBlock {
  const void* from;
  std::int64_t row, column;  // strides
  std::int64_t columns;
  int rows, width;           // what lies beyond rows is zero
  void* to;
};

// Few outputs a group (depthwise): the positions lie along the vector lanes instead. The gradient of one
// tap is the dot product of two planes, of which g's has zeros wherever x's rows hold no position.
struct SquareSumPlanes {
  const void* x;             // one channel's plane, of the first sample
  const void* g;             // the group's first plane
  std::int64_t x_sample, g_sample, g_plane;
  const std::int64_t* tap;   // [taps]
  std::int64_t length;       // of a plane of g: whole vectors
  std::int64_t samples;
  int outputs, taps;
  void* total;               // a row an output
  std::int64_t total_row;
  bool wide_total;
};

UNLEARNKIT_EACH_ISA(int block_outputs(bool is_double); int lanes(bool is_double);
                    void square_sum(const SquareSumBlock&, bool is_double);
                    void square_sum(const SquareSumPlanes&, bool is_double);
                    void transpose(const TransposeBlock&, bool is_double))

}  // namespace unlearnkit
