// depthwise_separable (op/depthwise_separable.h) in one kernel: a block makes 64 pixels' depthwise
// results, 32 channels at a time (16 of f32, 8 of f64), normalised and activated, into a tile of
// shared memory, from which they go into the pointwise product; nothing in between is ever stored.
// Blocks of other outputs make the same tile again: 9 multiplications beside 64 or 128.
#include "../op/depthwise_separable.h"
#include "depthwise.cuh"
#include "fold.cuh"
#include "pixels.cuh"
#include "product.cuh"

namespace torchext {
namespace {

template <class T>
struct Depthwise {
  using F = Compute<T>;
  Laid<T> x, taps;  // taps: [kernel_h][kernel_w][channels]
  Axis h, w;
  int H, W, M, channels;
  tile::Divider<int> plane, row;  // of outputs
  const F *scale, *shift;
  Activation activation;

  // V channels from `c` on of output m.
  template <int V>
  __device__ __forceinline__ Pack<T, V> at(int m, int c) const {
    F sums[V] = {};
    const int n = m / plane, within = m - n * plane, oh = within / row, ow = within - oh * row;
    const int top = oh * h.stride - h.padding, left = ow * w.stride - w.padding;
    const T* image = x.data + n * x.n + c;
    for (int i = 0; i < h.kernel; ++i) {
      const int ih = top + i * h.dilation;
      if (ih < 0 || ih >= H) continue;
#pragma unroll 3  // as wide as most: a row's loads are in flight together
      for (int j = 0; j < w.kernel; ++j) {
        const int iw = left + j * w.dilation;
        if (iw < 0 || iw >= W) continue;
        const auto input = tile::load<V>(image + ih * x.h + iw * x.w);
        const auto tap = tile::load<V>(taps.data + i * taps.h + j * taps.w + c);
#pragma unroll
        for (int k = 0; k < V; ++k)
          sums[k] += tile::widen(input.lanes[k]) * tile::widen(tap.lanes[k]);
      }
    }
    Pack<T, V> result{};
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (c + k >= channels) continue;
      const F value = sums[k] * scale[c + k] + shift[c + k];
      result.lanes[k] = tile::narrow<T>(activate(activation, value));
    }
    return result;
  }
};

template <class Core, class Out>
__global__ void __launch_bounds__(Core::kThreads, 512 / Core::kThreads)  // 128 registers
    separable_kernel(const Depthwise<typename Core::T> a, const MatrixRows<typename Core::T> b,
                     const Out out, int K) {
  using T = typename Core::T;
  using TileA = tile::MatrixTile<T, tile::Order::x_rows, Core::kM, Core::kK>;
  using LoadB = Loader<Core, MatrixRows<T>, Core::kN>;
  constexpr int V = kVector<T>, kStage = TileA::kElements + LoadB::Tile::kElements;
  const int m0 = blockIdx.x * Core::kM, n0 = blockIdx.y * Core::kN;
  T* shared = tile::shared_array<T>();
  const LoadB load_b(b, n0);
  load_b.copy(shared + TileA::kElements, 0, K);
  tile::commit_copies();
  Core core;
  int stage = 0;
  for (int k = 0; k < K; k += Core::kK) {
    T* own = shared + stage * kStage;
    T* next = shared + (1 - stage) * kStage;
    for (int i = threadIdx.x; i < Core::kM * TileA::kChunks; i += Core::kThreads) {
      const int row = i / TileA::kChunks, chunk = i % TileA::kChunks, c = k + chunk * V;
      const bool any = m0 + row < a.M && c < K;
      const Pack<T, V> pack = any ? a.template at<V>(m0 + row, c) : Pack<T, V>{};
      tile::store(own + TileA::at(row, chunk), pack);
    }
    tile::wait_for_copies<0>();
    __syncthreads();  // this stage is complete; the other one was multiplied
    if (k + Core::kK < K) load_b.copy(next + TileA::kElements, k + Core::kK, K);
    tile::commit_copies();
    core.template add<TileA, typename LoadB::Tile>(own, own + TileA::kElements);
    stage = 1 - stage;
  }
  store_results(core, out, m0, n0);
}

template <class T, class Core>
void launch_as(const char* op, const Depthwise<T>& a, const MatrixRows<T>& b,
               const OutputPixels<T>& out, int K, bool along_rows, const Queue& queue) {
  using F = typename Core::F;
  const Results<OutputPixels<T>, F> results{out, 1, out.pixels.channels, nullptr, along_rows};
  dim3 grid = tile::blocks_for(op, a.M, Core::kM);
  grid.y = tile::blocks_for(op, out.pixels.channels, Core::kN).x;
  tile::launch_kernel(op, separable_kernel<Core, Results<OutputPixels<T>, F>>, grid, Core::kThreads,
                      kProductBytes<Core>, queue, a, b, results, K);
}

template <class T>
void run(const DepthwiseSeparable& p, const Queue& queue) {
  using F = Compute<T>;
  const char* op = "depthwise_separable_inference";
  Conv2d from = p.depthwise, to = p.pointwise;
  fold_norm(op, from, p.depthwise_norm, queue);
  fold_norm(op, to, p.pointwise_norm, queue);
  const Laid<T> x =
      laid_out<T>(op, {from.x, from.x_stride, from.N, from.C, from.H, from.W, 1}, {}, queue);
  const Laid<T> taps = filter_of<T>(op, from, from.weight, from.w_stride, false, queue);
  const Laid<T> weight = laid_out_weight<T>(op, to, to.weight, to.w_stride, queue);
  const int64_t M = to.N * to.OH * to.OW;
  check_product(op, {M, to.O, x.channels, 1, 1});
  const tile::Divider<int> plane(to.OH * to.OW), row(to.OW);
  const Depthwise<T> a{x,
                       taps,
                       Axis(from.h),
                       Axis(from.w),
                       static_cast<int>(from.H),
                       static_cast<int>(from.W),
                       static_cast<int>(M),
                       static_cast<int>(from.C),
                       plane,
                       row,
                       static_cast<const F*>(from.scale),
                       static_cast<const F*>(from.shift),
                       from.activation};
  const MatrixRows<T> b{weight.data, weight.n, static_cast<int>(to.O)};
  const OutputPixels<T> out{pixels_of<T>(to), static_cast<int>(M), plane, row};
  const bool along_rows = to.y_stride.c != 1;
  if constexpr (sizeof(T) == 2) {
    if (to.O > 64) {
      using Core = tile::TensorCores<T, 64, 128, 2, 2>;
      return launch_as<T, Core>(op, a, b, out, x.channels, along_rows, queue);
    }
    using Core = tile::TensorCores<T, 64, 64, 2, 2>;
    launch_as<T, Core>(op, a, b, out, x.channels, along_rows, queue);
  } else {
    launch_as<T, tile::Cores<T>>(op, a, b, out, x.channels, along_rows, queue);
  }
}

}  // namespace

void launch(const DepthwiseSeparable& p, const Queue& queue) {
  for_dtype(p.depthwise.dtype, [&](auto zero) { run<decltype(zero)>(p, queue); });
}

}  // namespace torchext
