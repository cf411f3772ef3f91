// SPDX-License-Identifier: BSD-3-Clause
// Lists of tensors cut into pieces of about equal work, for parallel_for. The cut does not depend on the
// number of threads. Not for files in cpu/isa/.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace unlearnkit {

struct Piece {
  std::int64_t tensor, begin, end;
};

constexpr std::int64_t piece_length = 1 << 16;  // elements: 256 KiB of float32, some 20 us of work

// Appends the pieces of a tensor of so many rows, each of `length` elements.
inline void cut(std::vector<Piece>& pieces, std::int64_t tensor, std::int64_t rows, std::int64_t length = 1) {
  const std::int64_t step = std::max<std::int64_t>(1, piece_length / std::max<std::int64_t>(1, length));
  for (std::int64_t begin = 0; begin < rows; begin += step)
    pieces.push_back({tensor, begin, std::min(rows, begin + step)});
}

}  // namespace unlearnkit
