// Sums over the rows of a [rows, columns] matrix of what a kernel made of parts of a tensor: one
// number per column, always added in the same order. A block takes 32 columns, its 8 warps a part
// of the rows each.
#pragma once

#include "pointwise.cuh"
#include "tile/math.cuh"
#include "tile/reduce.cuh"

namespace torchext {

template <class F>
struct ColumnSums {
  int64_t rows, columns, row_stride;
  const F* parts;  // [rows][columns]
  F* sums;         // [columns]
};

template <class F>
__global__ void __launch_bounds__(kPointwiseThreads) column_sums_kernel(const ColumnSums<F> p) {
  constexpr int kWarps = kPointwiseThreads / tile::kWarp;
  F* of_warps = tile::shared_array<F>();  // [kWarps][32]
  const int lane = threadIdx.x % tile::kWarp, warp = threadIdx.x / tile::kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * tile::kWarp + lane;
  F sum = 0;
  if (column < p.columns) {
    for (int64_t row = warp; row < p.rows; row += kWarps)
      sum += p.parts[row * p.row_stride + column];
  }
  of_warps[warp * tile::kWarp + lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= p.columns) return;
  for (int k = 1; k < kWarps; ++k) sum += of_warps[k * tile::kWarp + lane];
  p.sums[column] = sum;
}

template <class F>
void sum_columns(const char* op, const ColumnSums<F>& p, const Queue& queue) {
  const dim3 grid = tile::blocks_for(op, p.columns, tile::kWarp);
  tile::launch_kernel(op, column_sums_kernel<F>, grid, kPointwiseThreads,
                      kPointwiseThreads * sizeof(F), queue, p);
}

}  // namespace torchext
