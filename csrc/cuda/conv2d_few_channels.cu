// conv2d of 16-bit images of up to four channels, as networks begin: the channels of neighbouring
// pixels are one line of numbers, of which each row of the window takes a piece. A block keeps the
// weights of up to 64 outputs and makes tiles of 8 x 16 pixels, whose inputs it brings to shared
// memory once; what tensor cores take is gathered there, two neighbours at a time. Two neighbours
// begin at an even place: pixels that begin at an odd one read a second copy, moved by one.
#include "conv2d.cuh"
#include "pixels.cuh"
#include "product.cuh"

namespace torchext {
namespace {

constexpr const char* kOp = "conv2d";
constexpr int kTileH = 8, kTileW = 16, kMostChannels = 4;

template <class T, int kN>
using CoreOf = tile::TensorCores<T, kTileH * kTileW, kN, 4, 1>;  // a warp has two rows of a tile

// The pairs of neighbours that sums are made of, `line` of them in a row of the window, the last of
// which may be half. Four are read at once: those of one row or, what is left of rows, of as many.
struct Pairs {
  int rows, line, K;  // K: numbers, in whole steps of 16

  Pairs(int rows, int numbers) : rows(rows), line((numbers + 1) / 2) {
    K = (2 * rows * line + 15) / 16 * 16;
  }
  struct Place {
    int row, pair;  // beyond the last pair: none
  };
  __device__ __forceinline__ Place place(int index) const {
    const int whole = line / 4 * 4, left = index - rows * whole;
    if (left < 0) return {index / whole, index % whole};
    return {left % rows, whole + left / rows};
  }
};

// The weights as [O][K].
template <class T>
struct WeightLines {
  const T* weight;
  Strides stride;
  int C, kernel_w;
  Pairs pairs;
  int64_t count;
  T* to;
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads) weight_lines_kernel(const WeightLines<T> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.count) return;
  const int64_t o = index / p.pairs.K;
  const auto k = static_cast<int>(index - o * p.pairs.K);
  const auto [i, pair] = p.pairs.place(k / 2);
  const int within = 2 * pair + k % 2, j = within / p.C, c = within - j * p.C;
  const bool any = pair < p.pairs.line && j < p.kernel_w;
  const Strides& s = p.stride;
  p.to[index] = any ? p.weight[o * s.n + c * s.c + i * s.h + j * s.w] : tile::narrow<T>(0.0f);
}

template <class T>
struct Images {
  const T* x;
  Strides stride;
  int C, H, W;
  Axis h, w;
  int rows, pixels, row;            // of a tile's inputs; elements from row to row
  bool twice;                       // some pixels begin at an odd place
  bool planes;                      // neighbours are pixels, not channels,
  tile::Divider<int> inner;         // so many
  tile::Divider<int> across, down;  // tiles of an image
  int tiles, tiles_of_block;
  const T* weight;
  int O;
  Pairs pairs;

  // Where the second copy begins: what is read of both at once lies in other banks.
  __host__ __device__ int second() const { return (rows * row + 63) / 64 * 64 + 32; }
  __host__ __device__ int elements() const { return (twice ? second() + 2 : 0) + rows * row; }
};

// Where a tile's results go.
template <class T, bool kCounts>
struct TileOutputs {
  static constexpr bool kMoments = kCounts;
  Pixels<T> pixels;
  int OH, OW;
  bool along_rows;
  PartsOfMoments<float> moments;
  int tile, n, top, left;

  template <int V>
  __device__ __forceinline__ bool store(int m, int o, float (&values)[V]) const {
    const int h = top + m / kTileW, w = left + m % kTileW;
    if (h >= OH || w >= OW || o >= pixels.channels) return false;
    pixels.store_at(n, h, w, o, values);
    return true;
  }
  template <int V>
  __device__ __forceinline__ void count(int o, const Moments<float> (&found)[V]) const {
    moments.store(tile, o, pixels.channels - o, found);
  }
};

// Shared memory: a tile's inputs, whose place its results take; of each two k's where they are and
// which bits count; the weights.
template <class Core, bool kCounts>
struct Layout {
  int weight_row, pairs, weights, bytes;

  __host__ __device__ explicit Layout(const Images<typename Core::T>& p)
      : weight_row(p.pairs.K + 8) {
    constexpr size_t results = kCounts ? kMomentsBytes<Core> : kBandBytes<Core>;
    pairs = (max_of(2 * p.elements(), static_cast<int>(results)) + 15) / 16 * 16;
    weights = pairs + 4 * p.pairs.K;
    bytes = weights + 2 * Core::kN * weight_row;
  }
};

// A tile's inputs, from (top, left) of image n; 0 around it.
template <class T, int kThreads>
__device__ __forceinline__ void bring(T* to, const Images<T>& p, int n, int top, int left) {
  const int lane = threadIdx.x % 32, given = p.pixels * p.C;
  for (int r = threadIdx.x / 32; r < p.rows; r += kThreads / 32) {
    const int h = top + r;
    const bool inside = h >= 0 && h < p.H;
    const T* from = p.x + (n * p.stride.n + h * p.stride.h);
    T* row = to + r * p.row;
#pragma unroll 4
    for (int q = lane; q < p.row; q += 32) {
      const int outer = q / p.inner, rest = q - outer * p.inner;
      const int pixel = p.planes ? rest : outer, c = p.planes ? outer : rest, w = left + pixel;
      const bool any = inside && q < given && w >= 0 && w < p.W;
      const T value = any ? from[w * p.stride.w + c * p.stride.c] : tile::narrow<T>(0.0f);
      const int at = q < given ? pixel * p.C + c : q;
      row[at] = value;
      if (p.twice) row[p.second() + at + 1] = value;
    }
  }
}

template <class Core, bool kCounts>
__global__ void __launch_bounds__(Core::kThreads, kCounts ? 3 : 4)
    few_channels_kernel(const Images<typename Core::T> p,
                        TileOutputs<typename Core::T, kCounts> out) {
  using T = typename Core::T;
  const Layout<Core, kCounts> layout(p);
  auto* shared = tile::shared_array<unsigned char>();
  auto* inputs = reinterpret_cast<T*>(shared);
  auto* pairs = reinterpret_cast<uint32_t*>(shared + layout.pairs);
  auto* weights = reinterpret_cast<T*>(shared + layout.weights);
  const int n0 = blockIdx.y * Core::kN, thread = threadIdx.x, lane = thread % 32;
  const int K = p.pairs.K, chunks = K / 8;
  for (int i = thread; i < Core::kN * chunks; i += Core::kThreads) {
    const int o = i / chunks, k = (i - o * chunks) * 8;
    const T* from = n0 + o < p.O ? p.weight + (n0 + o) * int64_t{K} + k : nullptr;
    tile::copy_async(weights + o * layout.weight_row + k, from);
  }
  tile::commit_copies();
  for (int i = thread; i < K / 2; i += Core::kThreads) {
    const auto [row, at] = p.pairs.place(i);
    const int last = p.pairs.line - 1, numbers = p.w.kernel * p.C - 2 * at;
    const int offset = row * p.h.dilation * p.row + 2 * min_of(at, last);
    const Pack<uint32_t, 2> pair{{static_cast<uint32_t>(offset), numbers >= 2   ? 0xffffffffu
                                                                 : numbers == 1 ? 0xffffu
                                                                                : 0}};
    tile::store(pairs + 2 * i, pair);
  }

  // The pixels whose sums a thread has: rows of 16, of which two.
  const T* places[Core::kPiecesM][2];
#pragma unroll
  for (int i = 0; i < Core::kPiecesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = thread / 32 * Core::kPiecesM + i,
                first = (8 * half + lane / 4) * p.w.stride * p.C;
      places[i][half] = inputs + (h * p.h.stride * p.row + first);
      if (first % 2) places[i][half] += p.second() + 1;
    }
  }
  const int begin = blockIdx.x * p.tiles_of_block;
  for (int index = begin; index < min_of(begin + p.tiles_of_block, p.tiles); ++index) {
    const int line = index / p.across, n = line / p.down;
    out.tile = index, out.n = n;
    out.top = (line - n * p.down) * kTileH, out.left = (index - line * p.across) * kTileW;
    bring<T, Core::kThreads>(inputs, p, n, out.top * p.h.stride - p.h.padding,
                             out.left * p.w.stride - p.w.padding);
    tile::wait_for_copies<0>();
    __syncthreads();
    Core core;
    for (int k = 0; k < K; k += 16) {
      uint32_t of_x[Core::kPiecesM][4], of_weight[Core::kPiecesN / 2][4];
#pragma unroll
      for (int j = 0; j < Core::kPiecesN / 2; ++j) {
        const int o = 16 * j + lane / 16 * 8 + lane % 8;
        tile::load_matrices<false>(of_weight[j],
                                   weights + (o * layout.weight_row + k + lane / 8 % 2 * 8));
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const auto pair = tile::load<2>(pairs + (k + 8 * side + lane % 4 * 2));
#pragma unroll
        for (int i = 0; i < Core::kPiecesM; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const auto two = tile::load<2>(places[i][half] + pair.lanes[0]);
            uint32_t& bits = of_x[i][2 * side + half];
            __builtin_memcpy(&bits, &two, sizeof bits);
            bits &= pair.lanes[1];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < Core::kPiecesM; ++i) {
#pragma unroll
        for (int j = 0; j < Core::kPiecesN; ++j) {
          tile::multiply_add(T{}, core.sums[i][j], of_x[i], of_weight[j / 2] + j % 2 * 2);
        }
      }
    }
    store_results(core, out, 0, n0);
    __syncthreads();  // the next tile's inputs come where results were
  }
}

// An image's and a weight's places, but for where they are.
template <class T>
Images<T> images_of(const Conv2d& p) {
  const auto C = static_cast<int>(p.C);
  const auto size = [](int tile, const Axis& axis) {
    return (tile - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  };
  const Axis h(p.h), w(p.w);
  const int pixels = size(kTileW, w);
  const bool planes = p.x_stride.c != 1 && p.x_stride.w == 1;
  const int64_t across = ceil_div(p.OW, kTileW), down = ceil_div(p.OH, kTileH);
  const auto tiles = static_cast<int>(p.N * across * down);
  constexpr int kEnough = 512, kMostTiles = 8;  // blocks for a large chip, and then tiles of each
  return {static_cast<const T*>(p.x),
          p.x_stride,
          C,
          static_cast<int>(p.H),
          static_cast<int>(p.W),
          h,
          w,
          size(kTileH, h),
          pixels,
          (pixels * C + 48) / 64 * 64 + 16,  // so that neighbouring rows lie in other banks
          w.stride * C % 2 != 0,
          planes,
          tile::Divider<int>(planes ? pixels : C),
          tile::Divider<int>(across),
          tile::Divider<int>(down),
          tiles,
          max_of(min_of(tiles / kEnough, kMostTiles), 1),
          nullptr,
          static_cast<int>(p.O),
          Pairs(h.kernel, w.kernel * C)};
}

template <class T, int kN, bool kCounts>
void run(const Conv2d& p, const PartsOfMoments<float>& moments, const Queue& queue) {
  using Core = CoreOf<T, kN>;
  Images<T> images = images_of<T>(p);
  const int64_t count = p.O * images.pairs.K;
  T* weight = tile::scratch<T>(queue, count);
  const WeightLines<T> lines{static_cast<const T*>(p.weight),
                             p.w_stride,
                             images.C,
                             images.w.kernel,
                             images.pairs,
                             count,
                             weight};
  launch_pointwise(kOp, weight_lines_kernel<T>, lines, lines.count, 1, queue);
  images.weight = weight;
  const TileOutputs<T, kCounts> out{pixels_of<T>(p),
                                    static_cast<int>(p.OH),
                                    static_cast<int>(p.OW),
                                    p.y_stride.c != 1,
                                    moments,
                                    0,
                                    0,
                                    0,
                                    0};
  dim3 grid = tile::blocks_for(kOp, images.tiles, images.tiles_of_block);
  grid.y = tile::blocks_for(kOp, p.O, kN).x;
  const Layout<Core, kCounts> layout(images);
  tile::launch_kernel(kOp, few_channels_kernel<Core, kCounts>, grid, Core::kThreads,
                      static_cast<size_t>(layout.bytes), queue, images, out);
}

template <class T, int kN>
void run(const Conv2d& p, PartsOfMoments<float>* moments, const Queue& queue) {
  if (!moments || p.y_stride.c != 1) return run<T, kN, false>(p, {}, queue);
  *moments = parts_of_moments<float>(images_of<T>(p).tiles, p.O, queue);
  run<T, kN, true>(p, *moments, queue);
}

}  // namespace

bool has_few_channels(const Conv2d& p) {
  if (p.dtype != DType::bf16 && p.dtype != DType::f16) return false;
  constexpr int64_t kMost = 1 << 15;  // beyond which nothing below overflows
  const auto reach = [](const Window& w) { return w.kernel * w.dilation + kTileW * w.stride; };
  if (p.groups != 1 || p.C == 0 || p.C > kMostChannels || p.w.dilation != 1 || reach(p.h) > kMost ||
      reach(p.w) > kMost || reach(p.h) * reach(p.w) > kMost ||
      max_of(max_of(p.H, p.W), p.O) > INT32_MAX / 2 ||
      p.N * ceil_div(p.OH, kTileH) * ceil_div(p.OW, kTileW) > INT32_MAX / 2) {
    return false;
  }
  return Layout<CoreOf<bf16, 64>, true>(images_of<bf16>(p)).bytes <= tile::kMostShared;
}

void launch_few_channels(const Conv2d& p, PartsOfMoments<float>* moments, const Queue& queue) {
  if (p.N * p.OH * p.OW == 0 || p.O == 0) return;
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      p.O <= 32 ? run<T, 32>(p, moments, queue) : run<T, 64>(p, moments, queue);
    }
  });
}

}  // namespace torchext
