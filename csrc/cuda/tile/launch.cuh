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

// Bytes of shared memory that a block has on sm_86, 89 and 120; others have more.
constexpr int64_t kMostShared = 99 * 1024;

// Blocks of `threads` for `count` items of work, one thread each.
inline dim3 blocks_for(const char* op, int64_t count, int threads) {
  const int64_t blocks = (count + threads - 1) / threads;
  if (blocks > INT32_MAX) {
    throw std::runtime_error(std::string(op) + ": CUDA: got " + std::to_string(blocks) +
                             " blocks, expected fewer than 2^31");
  }
  return dim3(static_cast<unsigned>(blocks));
}

// Whether all blocks are to run at once, to meet each other (grid.cuh).
enum class Together { no, yes };

#if TORCHEXT_EMULATED

// How many blocks can run at once.
template <class... Parameters>
int blocks_at_once(const char*, void (*)(Parameters...), int, size_t) {
  return emulator::device().blocks_at_once;
}

template <Together kTogether = Together::no, class... Parameters, class... Arguments>
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
  const emulator::Launch launch{
      {grid.x, grid.y, grid.z},   {block.x, block.y, block.z},           {1, 1, 1}, shared_bytes,
      kTogether == Together::yes, reinterpret_cast<const void*>(kernel), body,      &bound};
  try {
    emulator::launch(launch);
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(op) + ": " + error.what());
  }
}

#else

inline void check(const char* op, cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
  }
}

template <class... Parameters>
void ask_for_shared(const char* op, void (*kernel)(Parameters...), size_t bytes) {
  constexpr size_t kUnasked = 48 * 1024;
  if (bytes <= kUnasked) return;
  check(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes)));
}

template <class... Parameters>
int blocks_at_once(const char* op, void (*kernel)(Parameters...), int threads, size_t bytes) {
  ask_for_shared(op, kernel, bytes);
  int device = 0, processors = 0, blocks = 0;
  check(op, cudaGetDevice(&device));
  check(op, cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(op, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes));
  return processors * blocks;
}

template <Together kTogether = Together::no, class... Parameters, class... Arguments>
void launch_kernel(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, const Queue& queue, const Arguments&... arguments) {
  ask_for_shared(op, kernel, shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(queue.stream);
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = kTogether == Together::yes ? 1 : 0;
  check(op, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

#endif

}  // namespace torchext::tile
