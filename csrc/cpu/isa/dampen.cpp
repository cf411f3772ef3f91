// SPDX-License-Identifier: BSD-3-Clause
// Dampening of one run of weights: w <- w * lambda F_D / F_f where F_f > alpha F_D and that is below 1.
#include "../dampen.h"

#include "../half.h"

namespace unlearnkit {
namespace UNLEARNKIT_ISA {
namespace {

constexpr int block = 64;

template <class A, class B>
struct Wider {
  using Type = float;
};
template <class A>
struct Wider<A, double> {
  using Type = double;
};
template <class B>
struct Wider<double, B> {
  using Type = double;
};
template <>
struct Wider<double, double> {
  using Type = double;
};

// N at a time. Few weights are selected, so where none is, division and stores are left out.
template <int N, class W, class F>
inline int few(W* __restrict w, const F* __restrict f, const F* __restrict d, F alpha, F lambda) {
  int any = 0;
  for (int j = 0; j < N; ++j) any |= f[j] > alpha * d[j];
  if (!any) return 0;
  using Product = typename Wider<W, F>::Type;
  int touched = 0;
  for (int j = 0; j < N; ++j) {
    const F factor = lambda * d[j] / f[j];
    // a NaN compares false: 0 / 0 is left alone
    const bool is_touched = (f[j] > alpha * d[j]) & (factor < 1);
    const W product = rounded<W>(static_cast<Product>(widened(w[j])) * static_cast<Product>(factor));
    w[j] = is_touched ? product : w[j];
    touched += is_touched;
  }
  return touched;
}

template <class W, class F>
std::int64_t typed(const Run& run, double alpha, double lambda) {
  auto* w = static_cast<W*>(run.weight);
  auto *f = static_cast<const F*>(run.forget), *d = static_cast<const F*>(run.reference);
  const F a = static_cast<F>(alpha), l = static_cast<F>(lambda);
  std::int64_t touched = 0, i = 0;
  for (; i + block <= run.size; i += block) touched += few<block>(w + i, f + i, d + i, a, l);
  for (; i < run.size; ++i) touched += few<1>(w + i, f + i, d + i, a, l);
  return touched;
}

template <class F>
std::int64_t by_weight(const Run& run, double alpha, double lambda) {
  switch (run.weight_dtype) {
    case 0: return typed<float, F>(run, alpha, lambda);
    case 1: return typed<double, F>(run, alpha, lambda);
    case 2: return typed<Half, F>(run, alpha, lambda);
    default: return typed<Bfloat16, F>(run, alpha, lambda);
  }
}

}  // namespace

std::int64_t dampen_run(const Run& run, double alpha, double lambda) {
  return run.importance_dtype == 0 ? by_weight<float>(run, alpha, lambda) : by_weight<double>(run, alpha, lambda);
}

}  // namespace UNLEARNKIT_ISA
}  // namespace unlearnkit
