// SPDX-License-Identifier: BSD-3-Clause
// The part of CUDA's language and runtime that csrc/cuda uses, for g++ and the emulator: put this folder
// before all others on the include path. Device memory is the host's, and every call has ended when it
// returns. A .cu file needs no change, except that it launches through csrc/cuda/launch.cuh and takes
// dynamic shared memory from there too.
#pragma once
#include <cmath>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local  // so that the emulator can find it and poison it
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define CUDA_EMULATION_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- vectors
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- bits
namespace cuda_emulation {
template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cuda_emulation
inline unsigned __float_as_uint(float x) { return cuda_emulation::bits<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_emulation::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return cuda_emulation::bits<float>(x); }
inline float __int_as_float(int x) { return cuda_emulation::bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_emulation::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_emulation::bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return std::uint64_t{a} * b >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned __int128>(a) * b >> 64;
}

// ---- arithmetic; each rounds once, as -ffp-contract=off sees to
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
using std::isfinite;
using std::isinf;
using std::isnan;
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

// ---- memory. Only one thread runs at a time, so an atomic needs nothing more.
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, T value) { *p = value; }
template <class T> void __stcg(T* p, T value) { *p = value; }
inline void __threadfence() {}
inline void __threadfence_block() {}
namespace cuda_emulation {
template <class T> struct identity { using type = T; };
template <class T> using same = typename identity<T>::type;  // converts the value to the address's type
}  // namespace cuda_emulation
template <class T> T atomicAdd(T* p, cuda_emulation::same<T> v) { T old = *p; *p = old + v; return old; }
template <class T> T atomicSub(T* p, cuda_emulation::same<T> v) { T old = *p; *p = old - v; return old; }
template <class T> T atomicMin(T* p, cuda_emulation::same<T> v) { T old = *p; *p = min(old, v); return old; }
template <class T> T atomicMax(T* p, cuda_emulation::same<T> v) { T old = *p; *p = max(old, v); return old; }
template <class T> T atomicOr(T* p, cuda_emulation::same<T> v) { T old = *p; *p = old | v; return old; }
template <class T> T atomicAnd(T* p, cuda_emulation::same<T> v) { T old = *p; *p = old & v; return old; }
template <class T> T atomicExch(T* p, cuda_emulation::same<T> v) { T old = *p; *p = v; return old; }
template <class T> T atomicCAS(T* p, cuda_emulation::same<T> compare, cuda_emulation::same<T> v) {
  T old = *p;
  if (old == compare) *p = v;
  return old;
}

// ---- barriers of the block
inline void __syncthreads(CUDA_EMULATION_SITE) {
  cuda_emulation::emulator.barrier({"__syncthreads", file, line}, 0);
}
inline int __syncthreads_count(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::emulator.barrier({"__syncthreads_count", file, line}, predicate != 0);
}
inline int __syncthreads_or(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::emulator.barrier({"__syncthreads_or", file, line}, predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::emulator.barrier({"__syncthreads_and", file, line}, predicate == 0) == 0;
}

// ---- collectives of a warp
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_EMULATION_SITE) {
  char all[32];
  cuda_emulation::exchange(mask, char{}, all, "__syncwarp", file, line);
}
namespace cuda_emulation {
// The value of the lane that `source(lane within its group)` names; one's own where that is no lane.
template <class T, class Source>
T shuffle(unsigned mask, T value, int width, Source source, const char* what, const char* file, int line) {
  T all[32];
  exchange(mask, value, all, what, file, line);
  const int lane = emulator.lane(), from = source(lane % width);
  const int whole = from < 0 || from >= width ? lane : lane / width * width + from;
  if (!(mask >> whole & 1)) throw std::runtime_error(std::string(what) + " reads a lane outside its mask");
  return all[whole];
}
}  // namespace cuda_emulation
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_EMULATION_SITE) {
  const auto source = [=](int) { return from & (width - 1); };
  return cuda_emulation::shuffle(mask, value, width, source, "__shfl_sync", file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_EMULATION_SITE) {
  const auto source = [=](int lane) { return lane - int(delta); };
  return cuda_emulation::shuffle(mask, value, width, source, "__shfl_up_sync", file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_EMULATION_SITE) {
  const auto source = [=](int lane) { return lane + int(delta); };
  return cuda_emulation::shuffle(mask, value, width, source, "__shfl_down_sync", file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_EMULATION_SITE) {
  const auto source = [=](int lane) { return lane ^ bits; };
  return cuda_emulation::shuffle(mask, value, width, source, "__shfl_xor_sync", file, line);
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_EMULATION_SITE) {
  T all[32];
  cuda_emulation::exchange(mask, value, all, "__match_any_sync", file, line);
  unsigned equal = 0;
  for (int i = 0; i < 32; ++i) equal |= unsigned{(mask >> i & 1) && !std::memcmp(&all[i], &value, sizeof value)} << i;
  return equal;
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATION_SITE) {
  bool all[32];
  cuda_emulation::exchange(mask, predicate != 0, all, "__ballot_sync", file, line);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= unsigned{(mask >> i & 1) && all[i]} << i;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, CUDA_EMULATION_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_EMULATION_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
namespace cuda_emulation {
template <class T, class Fold>
T reduce(unsigned mask, T value, Fold fold, const char* what, const char* file, int line) {
  T all[32], result = value;
  exchange(mask, value, all, what, file, line);
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1) && i != emulator.lane()) result = fold(result, all[i]);
  }
  return result;
}
}  // namespace cuda_emulation
#define CUDA_EMULATION_REDUCE(T, name, expression)                                                \
  inline T __reduce_##name##_sync(unsigned mask, T value, CUDA_EMULATION_SITE) {                  \
    const auto fold = [](T a, T b) { return expression; };                                        \
    return cuda_emulation::reduce(mask, value, fold, "__reduce_" #name "_sync", file, line);      \
  }
CUDA_EMULATION_REDUCE(unsigned, add, a + b)
CUDA_EMULATION_REDUCE(unsigned, min, min(a, b))
CUDA_EMULATION_REDUCE(unsigned, max, max(a, b))
CUDA_EMULATION_REDUCE(unsigned, or, a | b)
CUDA_EMULATION_REDUCE(unsigned, and, a& b)
CUDA_EMULATION_REDUCE(int, add, a + b)
CUDA_EMULATION_REDUCE(int, min, min(a, b))
CUDA_EMULATION_REDUCE(int, max, max(a, b))

// ---- the runtime
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };

namespace cuda_emulation {
inline cudaError_t last_error = cudaSuccess;
inline std::map<const void*, std::size_t> opted_shared;  // a kernel's bound on dynamic shared memory
inline int processors = 3;                               // few and odd, so that small inputs fill them

// What kernel<<<grid, block, shared, stream>>>(arguments...) does.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t, const A&... arguments) {
  const auto opted = opted_shared.find(reinterpret_cast<const void*>(kernel));
  const std::size_t bound = opted == opted_shared.end() ? 48 << 10 : opted->second;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x < 1u << 31 && grid.y < 1u << 16 &&
                    grid.z < 1u << 16 && threads > 0 && threads <= 1024 && block.z <= 64;
  if (!fits || shared > bound) {
    last_error = fits ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
    return;
  }
  emulator.run(grid, block, shared, [&] { kernel(static_cast<P>(arguments)...); });
}
}  // namespace cuda_emulation

inline cudaError_t cudaPeekAtLastError() { return cuda_emulation::last_error; }
inline cudaError_t cudaGetLastError() { return std::exchange(cuda_emulation::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess             ? "no error"
         : error == cudaErrorInvalidValue ? "invalid argument"
                                          : "invalid configuration argument";
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || std::size_t(value) > cuda_emulation::MAX_SHARED) return cudaErrorInvalidValue;
  cuda_emulation::opted_shared[reinterpret_cast<const void*>(kernel)] = value;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? cuda_emulation::processors : int(cuda_emulation::MAX_SHARED);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}
