// launch_kernel(): the one way to start a kernel, and the one place that looks for its error.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace torchext::tile {

// Blocks of `threads` for `count` items of work, one thread each.
inline dim3 blocks_for(const char* op, int64_t count, int threads) {
  const int64_t blocks = (count + threads - 1) / threads;
  if (blocks > INT32_MAX) {
    throw std::runtime_error(std::string(op) + ": CUDA: got " + std::to_string(blocks) +
                             " blocks, expected fewer than 2^31");
  }
  return dim3(static_cast<unsigned>(blocks));
}

template <class... Parameters, class... Arguments>
void launch_kernel(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, void* stream, const Arguments&... arguments) {
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
  }
}

}  // namespace torchext::tile
