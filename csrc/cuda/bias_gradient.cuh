// The gradient of a convolution's bias: sums of a laid out gradient over all its pixels.
#pragma once

#include "column_sums.cuh"
#include "lay_out.cuh"

namespace torchext {

// Sums of all channels over a run of pixels: a thread for a vector of them.
template <class T>
struct BiasParts {
  Laid<T> grad;
  int vectors, pixels, pixels_of_part;
  tile::Divider<int> plane, row;
  Compute<T>* parts;  // [parts][vectors * V]
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) bias_sums_kernel(const BiasParts<T> p) {
  const int vector = static_cast<int>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (vector >= p.vectors) return;
  const int begin = blockIdx.y * p.pixels_of_part;
  const int end = min_of(begin + p.pixels_of_part, p.pixels);
  Pack<Compute<T>, V> sums{};
  for (int k = begin; k < end; ++k) {
    const int n = k / p.plane, within = k - n * p.plane, h = within / p.row;
    const int w = within - h * p.row;
    const auto pack =
        tile::load<V>(p.grad.data + (n * p.grad.n + h * p.grad.h + w * p.grad.w) + vector * V);
#pragma unroll
    for (int i = 0; i < V; ++i) sums.lanes[i] += tile::widen(pack.lanes[i]);
  }
  tile::store(p.parts + (static_cast<int64_t>(blockIdx.y) * p.vectors + vector) * V, sums);
}

// The bias's gradient from the sums, which have gaps where groups were rounded up.
template <class T>
struct BiasResult {
  const Compute<T>* sums;
  T* grad_bias;
  int O, of_group, channels;
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads) bias_kernel(const BiasResult<T> p) {
  const auto o = static_cast<int>(pointwise_begin<1>());
  if (o >= p.O) return;
  p.grad_bias[o] = tile::narrow<T>(p.sums[o / p.of_group * p.channels + o % p.of_group]);
}

template <class T>
void sum_bias(const char* op, const Conv2dBackwardWeight& p, const Laid<T>& grad,
              const Queue& queue) {
  using F = Compute<T>;
  constexpr int V = kVector<T>;
  constexpr int64_t kMostParts = 256, kWorth = 16;  // pixels
  const int64_t pixels = p.N * p.OH * p.OW, columns = p.groups * grad.channels;
  const int64_t of_part = max_of(ceil_div(pixels, kMostParts), kWorth);
  const int64_t parts = ceil_div(pixels, of_part);
  F* sums = tile::scratch<F>(queue, (parts + 1) * columns);
  const BiasParts<T> b{grad,
                       static_cast<int>(columns / V),
                       static_cast<int>(pixels),
                       static_cast<int>(of_part),
                       tile::Divider<int>(p.OH * p.OW),
                       tile::Divider<int>(p.OW),
                       sums + columns};
  if (parts > 0) {
    dim3 grid = tile::blocks_for(op, b.vectors, kPointwiseThreads);
    grid.y = static_cast<unsigned>(parts);
    tile::launch_kernel(op, bias_sums_kernel<T, V>, grid, kPointwiseThreads, 0, queue, b);
  }
  sum_columns<F>(op, {parts, columns, columns, sums + columns, sums}, queue);
  const BiasResult<T> result{sums, static_cast<T*>(p.grad_bias), static_cast<int>(p.O),
                             static_cast<int>(p.O / p.groups), grad.channels};
  launch_pointwise(op, bias_kernel<T>, result, p.O, 1, queue);
}

}  // namespace torchext
