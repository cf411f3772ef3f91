// SPDX-License-Identifier: BSD-3-Clause
// Channel scores of a list of tensors: pieces of whole rows, shared out among the threads.
#include "channels.h"

#include "../kernels.h"
#include "parallel.h"
#include "pieces.h"

namespace unlearnkit {
namespace {

template <class T>
void score(Address weights, Address gradients, Address out, const Piece& piece, std::int64_t length,
           std::int64_t h, void* scratch) {
  const auto *w = reinterpret_cast<const T*>(weights), *g = reinterpret_cast<const T*>(gradients);
  const std::int64_t first = piece.begin * length;
  UNLEARNKIT_DISPATCH(score_rows, w + first, g + first, reinterpret_cast<T*>(out) + piece.begin,
                      piece.end - piece.begin, length, h, scratch);
}

}  // namespace

void channel_scores_cpu(const Addresses& weights, const Addresses& gradients, const Addresses& out,
                        const Sizes& rows, const Sizes& lengths, const Sizes& h, const std::vector<int>& dtypes,
                        int threads) {
  std::vector<Piece> pieces;
  std::int64_t longest = 0;
  for (std::size_t tensor = 0; tensor < rows.size(); ++tensor) {
    cut(pieces, tensor, rows[tensor], lengths[tensor]);
    if (h[tensor] < lengths[tensor]) longest = std::max(longest, lengths[tensor] + filter_block);
  }
  std::vector<double> scratch(longest * std::max(threads, 1));
  parallel_for(pieces.size(), threads, [&](std::int64_t task, int thread) {
    const Piece& piece = pieces[task];
    const std::int64_t i = piece.tensor;
    const auto run = dtypes[i] == static_cast<int>(Dtype::float32) ? score<float> : score<double>;
    run(weights[i], gradients[i], out[i], piece, lengths[i], h[i], scratch.data() + thread * longest);
  });
}

}  // namespace unlearnkit
