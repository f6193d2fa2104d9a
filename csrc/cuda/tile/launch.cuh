// launch_kernel(): the one way to start a kernel, and the one place that looks for its error.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../../common/plain.h"

#if !TORCHEXT_EMULATED
#include <cuda_runtime.h>
#endif

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

#if TORCHEXT_EMULATED

template <class... Parameters, class... Arguments>
void launch_kernel(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, const Queue&, const Arguments&... arguments) {
  struct Bound {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  };
  const Bound bound{kernel, {arguments...}};
  const auto body = [](const void* data) {
    const auto& bound = *static_cast<const Bound*>(data);
    std::apply(bound.kernel, bound.parameters);
  };
  const emulator::Launch launch{{grid.x, grid.y, grid.z},
                                {block.x, block.y, block.z},
                                {1, 1, 1},
                                shared_bytes,
                                false,
                                reinterpret_cast<const void*>(kernel),
                                body,
                                &bound};
  try {
    emulator::launch(launch);
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(op) + ": " + error.what());
  }
}

#else

template <class... Parameters, class... Arguments>
void launch_kernel(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, const Queue& queue, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(queue.stream);
  constexpr size_t kUnasked = 48 * 1024;  // more is to be asked for
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kUnasked) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    error = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  }
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
  }
}

#endif

}  // namespace torchext::tile
