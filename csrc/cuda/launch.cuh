// SPDX-License-Identifier: BSD-3-Clause
// How kernels are started, and how CUDA's errors become exceptions. The only file that launches one.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace unlearnkit {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// torch has a current device as well, but in its own copy of the CUDA runtime.
inline void use_device([[maybe_unused]] int device) {
#if !UNLEARNKIT_EMULATE
  check(cudaSetDevice(device));
#endif
}

inline cudaStream_t stream_at(Address stream) { return reinterpret_cast<cudaStream_t>(stream); }

// The block's dynamic shared memory.
template <typename Number>
__device__ Number* dynamic_shared() {
#if UNLEARNKIT_EMULATE
  return static_cast<Number*>(cuda_emulation::emulator.dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<Number*>(memory);
#endif
}

// Runs kernel(arguments...) on the stream, with `shared` bytes of dynamic shared memory a block.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
            const Arguments&... arguments) {
  if (shared > 48 * 1024)  // more has to be asked for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
#if UNLEARNKIT_EMULATE
  cuda_emulation::launch(kernel, grid, block, shared, stream, arguments...);
#else
  kernel<<<grid, block, shared, stream>>>(static_cast<Parameters>(arguments)...);
#endif
  check(cudaGetLastError());
}

}  // namespace unlearnkit
