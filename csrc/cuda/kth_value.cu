// SPDX-License-Identifier: BSD-3-Clause
// Exact selection over a list of tensors, digit by digit from the first: a pass counts the digit that
// follows the prefix found so far among the finite values that have it, and one block picks the digit that
// the wanted rank falls into. float32 takes 3 passes over the data, float64 takes 6. Ranks live in device
// memory, so that all passes are queued at once; the last one also finds what follows the wanted value.
#include <type_traits>

#include "kernels.h"
#include "launch.cuh"
#include "lists.cuh"

namespace unlearnkit {
namespace {

constexpr int threads = 512, digit_bits = 11, digits = 1 << digit_bits;
constexpr int blocks_per_processor = 4;
using Key = unsigned long long;  // ordered as the values are

struct Values {  // as ops/_cuda.py writes it
  Address address;
  std::int64_t size, dtype;
  std::int64_t first;  // chunk
};

struct Selection {  // the workspace begins with it; ops/_cuda.py reads the first three
  long long n;           // finite values
  double lower, upper;   // the wanted value and the one after it
  long long rank;        // among the values with the prefix, from 0; negative: there is no such value
  Key prefix;            // the first digits of the wanted key
  Key next;              // the least key beyond the prefix
  Count counts[digits];  // of the next digit
};

// The keys' width, and the digits they are cut into: from the first, all of 11 bits but the last.
template <bool DOUBLE>
struct Cut {
  static constexpr int width = DOUBLE ? 64 : 32, passes = (width + digit_bits - 1) / digit_bits;
  __host__ __device__ static constexpr int shift(int pass) {
    return width > (pass + 1) * digit_bits ? width - (pass + 1) * digit_bits : 0;
  }
  __host__ __device__ static constexpr int bits(int pass) {
    return shift(pass) > 0 ? digit_bits : width - pass * digit_bits;
  }
};

// Whether a value is finite; then its key: negative values' bits are flipped, the others' sign is set.
template <bool DOUBLE, typename Number>
__device__ __forceinline__ bool key_of(Number value, Key& key) {
  if constexpr (DOUBLE) {
    const Key bits = __double_as_longlong(value);
    key = bits ^ (bits >> 63 ? ~Key{0} : Key{1} << 63);
    return (bits << 1 >> 53) != 0x7ff;
  } else {
    const unsigned bits = __float_as_uint(value);
    key = bits ^ (bits >> 31 ? ~0u : 1u << 31);
    return (bits << 1 >> 24) != 0xff;
  }
}

template <bool DOUBLE>
__device__ double value_of(Key key) {
  if constexpr (DOUBLE)
    return __longlong_as_double(key ^ (key >> 63 ? Key{1} << 63 : ~Key{0})) + 0.0;  // -0 is 0
  const unsigned bits = static_cast<unsigned>(key);
  return __uint_as_float(bits ^ (bits >> 31 ? 1u << 31 : ~0u)) + 0.0f;
}

template <bool DOUBLE, int PASS>
struct Tally {
  using C = Cut<DOUBLE>;
  static constexpr bool is_last = PASS == C::passes - 1;
  unsigned* counts;  // shared memory's
  Key prefix, least;

  // Called by all lanes of a warp at once, of which some hold no value. Equal digits are common (values
  // cluster in few exponents), so that one lane adds for all that share one.
  template <typename Number>
  __device__ __forceinline__ void add(Number value, bool is_there) {
    Key key;
    is_there &= key_of<DOUBLE>(value, key);
    bool has_prefix = is_there;
    if constexpr (PASS > 0) {
      const Key begins = key >> (C::shift(PASS) + C::bits(PASS));
      has_prefix &= begins == prefix;
      if constexpr (is_last) least = is_there && begins > prefix && key < least ? key : least;
    }
    const unsigned live = __ballot_sync(all_lanes, has_prefix);
    if (live == 0) return;
    const int digit = has_prefix ? static_cast<int>(key >> C::shift(PASS)) & ((1 << C::bits(PASS)) - 1) : digits;
    const unsigned equal = __match_any_sync(all_lanes, digit);
    const bool is_first = __ffs(equal) - 1 == static_cast<int>(threadIdx.x % 32);
    if (has_prefix && is_first) atomicAdd(counts + digit, __popc(equal));
  }

  template <typename Number>
  __device__ void add_chunk(const Number* values, int size) {
    int done = 0;
    if (is_aligned(values)) {
      done = size / (4 * threads) * (4 * threads);
#pragma unroll 2
      for (int i = 4 * threadIdx.x; i < done; i += 4 * threads) {
        const auto four = *reinterpret_cast<const Four<Number>*>(values + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) add(four.at[j], true);
      }
    }
    for (int begin = done; begin < size; begin += threads) {
      const int i = begin + threadIdx.x;
      add(i < size ? values[i] : Number{0}, i < size);
    }
  }
};

template <bool DOUBLE, int PASS>
__global__ void __launch_bounds__(threads)
    tally_kernel(const Values* table, int tensors, int chunk, std::int64_t chunks, Selection* selection) {
  __shared__ unsigned counts[digits];
  if (selection->rank < 0) return;
  for (int i = threadIdx.x; i < digits; i += threads) counts[i] = 0;
  __syncthreads();
  Tally<DOUBLE, PASS> tally{counts, selection->prefix, ~Key{0}};
  for (std::int64_t at = blockIdx.x; at < chunks; at += gridDim.x) {
    const Values& row = row_of(table, tensors, at);
    const std::int64_t begin = (at - row.first) * chunk, left = row.size - begin;
    const int size = left < chunk ? static_cast<int>(left) : chunk;
    if (DOUBLE && row.dtype == static_cast<int>(Dtype::float64))
      tally.add_chunk(reinterpret_cast<const double*>(row.address) + begin, size);
    else
      tally.add_chunk(reinterpret_cast<const float*>(row.address) + begin, size);
  }
  if constexpr (tally.is_last) {  // an atomic a warp, for all of them go to one address
    Key least = tally.least;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const Key other = __shfl_xor_sync(all_lanes, least, step);
      least = other < least ? other : least;
    }
    if (threadIdx.x % 32 == 0 && least != ~Key{0}) atomicMin(&selection->next, least);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < digits; i += threads)
    if (counts[i] > 0) atomicAdd(selection->counts + i, Count{counts[i]});
}

// The sum over the threads before this one. Afterwards `total` is that of all.
__device__ Count sum_before(Count mine, Count (&shared)[threads], Count& total) {
  shared[threadIdx.x] = mine;
  __syncthreads();
  for (int step = 1; step < threads; step *= 2) {
    const Count other = static_cast<int>(threadIdx.x) >= step ? shared[threadIdx.x - step] : 0;
    __syncthreads();
    shared[threadIdx.x] += other;
    __syncthreads();
  }
  total = shared[threads - 1];
  return shared[threadIdx.x] - mine;
}

// One block: picks the digit into which the rank falls, and clears the counts for the next pass.
template <bool DOUBLE, int PASS>
__global__ void __launch_bounds__(threads) pick_kernel(Selection* selection, long long k, double quantile) {
  using C = Cut<DOUBLE>;
  constexpr int each = digits / threads;
  __shared__ Count shared[threads];
  __shared__ int following;  // the first digit in use after the one picked
  long long rank = selection->rank;
  const Key prefix = selection->prefix;
  Count mine[each], sum = 0, total;
  for (int i = 0; i < each; ++i) {
    mine[i] = selection->counts[each * threadIdx.x + i];
    sum += mine[i];
  }
  if (threadIdx.x == 0) following = digits;
  Count before = sum_before(sum, shared, total);
  if (PASS == 0) {
    // floor((n - 1) * quantile), as NumPy computes it; a product rounded up must not lead past the end
    const long long last = static_cast<long long>(total) - 1;
    const double at = floor(static_cast<double>(last) * quantile);
    rank = k > 0 ? k - 1 : at < static_cast<double>(last) ? static_cast<long long>(at) : last;
    if (rank > last) rank = -1;
    if (threadIdx.x == 0) selection->n = total;
  }
  if (rank < 0) {  // so say all threads
    if (threadIdx.x == 0) {
      selection->rank = -1;
      selection->lower = selection->upper = __longlong_as_double(0x7ff8000000000000);
    }
    return;
  }
  __shared__ Key picked;
  __shared__ bool is_last_of_digit;  // the wanted value
  for (int i = 0; i < each; ++i) {
    selection->counts[each * threadIdx.x + i] = 0;
    const long long from = static_cast<long long>(before), to = static_cast<long long>(before += mine[i]);
    if (from <= rank && rank < to) {
      picked = prefix << C::bits(PASS) | static_cast<Key>(each * threadIdx.x + i);
      is_last_of_digit = rank + 1 == to;
      selection->prefix = picked;
      selection->rank = rank - from;
    }
    if (from > rank && mine[i] > 0) atomicMin(&following, static_cast<int>(each * threadIdx.x + i));
  }
  if (PASS < C::passes - 1) return;
  __syncthreads();
  if (threadIdx.x > 0) return;
  Key after = picked;
  if (is_last_of_digit) {
    if (following < digits)
      after = prefix << C::bits(PASS) | static_cast<Key>(following);
    else if (selection->next != ~Key{0})
      after = selection->next;
  }
  selection->lower = value_of<DOUBLE>(picked);
  selection->upper = value_of<DOUBLE>(after);
}

struct Job {
  const Values* table;
  int tensors, chunk;
  std::int64_t chunks, k;
  double quantile;
  Selection* selection;
  unsigned blocks;
  cudaStream_t stream;
};

template <bool DOUBLE, int PASS = 0>
void run_passes(const Job& job) {
  if constexpr (PASS < Cut<DOUBLE>::passes) {
    launch(tally_kernel<DOUBLE, PASS>, job.blocks, threads, 0, job.stream, job.table, job.tensors, job.chunk,
           job.chunks, job.selection);
    launch(pick_kernel<DOUBLE, PASS>, 1, threads, 0, job.stream, job.selection, job.k, job.quantile);
    run_passes<DOUBLE, PASS + 1>(job);
  }
}

}  // namespace

void kth_value_cuda(Address table, std::int64_t tensors, std::int64_t chunk, std::int64_t chunks, bool is_double,
                    std::int64_t k, double quantile, Address workspace, int processors, int device,
                    Address stream) {
  static_assert(sizeof(Selection) == 8 * (6 + digits), "as ops/_cuda.py allocates it");
  use_device(device);
  auto* selection = reinterpret_cast<Selection*>(workspace);
  const std::int64_t most = std::int64_t{processors} * blocks_per_processor;
  const auto blocks = static_cast<unsigned>(chunks < 1 ? 1 : chunks < most ? chunks : most);
  const Job job{reinterpret_cast<const Values*>(table), static_cast<int>(tensors), static_cast<int>(chunk), chunks,
                k, quantile, selection, blocks, stream_at(stream)};
  check(cudaMemsetAsync(selection, 0, sizeof(Selection), job.stream));
  check(cudaMemsetAsync(&selection->next, 0xff, sizeof(Key), job.stream));
  is_double ? run_passes<true>(job) : run_passes<false>(job);
}

}  // namespace unlearnkit
