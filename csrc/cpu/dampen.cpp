// SPDX-License-Identifier: BSD-3-Clause
// Dampening of a list of weights: pieces of all tensors, shared out among the threads.
#include "dampen.h"

#include "../kernels.h"
#include "parallel.h"
#include "pieces.h"

namespace unlearnkit {

Sizes dampen_cpu(const Addresses& weights, const Addresses& forget, const Addresses& reference,
                 const Sizes& sizes, const std::vector<int>& weight_dtypes,
                 const std::vector<int>& importance_dtypes, double alpha, double lambda, int threads) {
  constexpr std::int64_t widths[] = {4, 8, 2, 2};  // of Dtype, in bytes
  std::vector<Piece> pieces;
  for (std::size_t tensor = 0; tensor < sizes.size(); ++tensor) cut(pieces, tensor, sizes[tensor]);
  std::vector<std::int64_t> counts(pieces.size());
  parallel_for(pieces.size(), threads, [&](std::int64_t task, int) {
    const auto [tensor, begin, end] = pieces[task];
    const std::int64_t w = begin * widths[weight_dtypes[tensor]], f = begin * widths[importance_dtypes[tensor]];
    const Run run{reinterpret_cast<void*>(weights[tensor] + w), reinterpret_cast<void*>(forget[tensor] + f),
                  reinterpret_cast<void*>(reference[tensor] + f), end - begin, weight_dtypes[tensor],
                  importance_dtypes[tensor]};
    counts[task] = UNLEARNKIT_DISPATCH(dampen_run, run, alpha, lambda);
  });
  Sizes touched(sizes.size());
  for (std::size_t task = 0; task < pieces.size(); ++task) touched[pieces[task].tensor] += counts[task];
  return touched;
}

}  // namespace unlearnkit
