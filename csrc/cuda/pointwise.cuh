// Ops that work element by element: a thread makes 16 bytes of the result where all tensors are
// aligned to that, else one element.
#pragma once

#include "tile/launch.cuh"
#include "tile/pack.cuh"

namespace torchext {

using tile::bf16;
using tile::Compute;
using tile::f16;
using tile::Pack;

constexpr int kPointwiseThreads = 256;

template <class T>
constexpr int kVector = 16 / sizeof(T);  // one 128-bit access

// The first element of this thread's V.
template <int V>
__device__ __forceinline__ int64_t pointwise_begin() {
  return (static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x) * V;
}

template <class P>
void launch_pointwise(const char* op, void (*kernel)(P), const P& p, int64_t count, int V,
                      const Queue& queue) {
  const dim3 grid = tile::blocks_for(op, (count + V - 1) / V, kPointwiseThreads);
  tile::launch_kernel(op, kernel, grid, kPointwiseThreads, 0, queue, p);
}

template <class T, class... Tensors>
bool all_aligned(const Tensors*... tensors) {  // those that there are
  return (tile::aligned_for<T, kVector<T>>(tensors) && ...);
}

// Whether vectors of V channels of T may be accessed at every pixel; true where there is no tensor.
template <class T, int V = kVector<T>>
bool in_vectors(const void* data, const Strides& s, int64_t C) {
  return data == nullptr || (s.c == 1 && C % V == 0 && s.n % V == 0 && s.h % V == 0 &&
                             s.w % V == 0 && tile::aligned_for<T, V>(data));
}

// function(T{}) for the C++ type of a dtype.
template <class Function>
void for_dtype(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::f32:
      return function(float{});
    case DType::f64:
      return function(double{});
    case DType::bf16:
      return function(bf16{});
    case DType::f16:
      return function(f16{});
  }
}

}  // namespace torchext
