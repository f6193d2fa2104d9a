// Depthwise convolutions and their gradients: a thread takes V neighbouring channels, and of small
// kernels four outputs along a row, for which it loads each input of the row once. The input's
// gradient with stride 1 is a convolution with the kernel turned around. The weight's gradient is
// summed over parts of the pixels, by shape, that of 3 x 3 down strips of columns. Several outputs
// of a channel (a multiplier) go one by one.
#include "bias_gradient.cuh"
#include "depthwise.cuh"
#include "lay_out.cuh"
#include "pixels.cuh"
#include "tile/reduce.cuh"

namespace torchext {
namespace {

constexpr int kThreads = 256;
constexpr int kAcross = 4;  // outputs along a row, of stride 1; two of stride 2

template <class T>
struct Filter {
  Laid<T> x, weight;  // weight: [kernel_h][kernel_w][outputs]
  Axis h, w;
  int N, H, W, OH, OW, multiplier;
  tile::Divider<int> vectors, across, rows;  // of a pixel; blocks of outputs of a row; OH
  Pixels<T> pixels;
};

// kW columns of the kernel and its stride along the row are known, or both 0.
template <class T, int V, int kW, int kStride>
__global__ void __launch_bounds__(kThreads, kW == 5 && kStride == 1 ? 1 : 2)
    depthwise_kernel(const Filter<T> p) {
  using F = Compute<T>;
  constexpr int kOutputs = kW ? kAcross / kStride : 1;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t lines = static_cast<int64_t>(p.N) * p.OH * int(p.across);
  if (index >= lines * int(p.vectors)) return;
  const auto line = static_cast<int>(index / int(p.vectors));
  const int o = static_cast<int>(index - static_cast<int64_t>(line) * int(p.vectors)) * V;
  const int row = line / p.across, ow = (line - row * p.across) * kOutputs;
  const int n = row / p.rows, oh = row - n * p.rows;
  const int stride = kW ? kStride : p.w.stride;
  const int top = oh * p.h.stride - p.h.padding, left = ow * stride - p.w.padding;
  const T* x = p.x.data + n * p.x.n + (V > 1 ? o : o / p.multiplier);

  F sums[kOutputs][V] = {};
  for (int i = 0; i < p.h.kernel; ++i) {
    const int ih = top + i * p.h.dilation;
    if (ih < 0 || ih >= p.H) continue;
    const T* line_of_x = x + ih * p.x.h;
    const T* taps = p.weight.data + i * p.weight.h + o;
    if constexpr (kW > 0) {
      constexpr int kInputs = (kOutputs - 1) * kStride + kW;
      Pack<T, V> inputs[kInputs];
#pragma unroll
      for (int j = 0; j < kInputs; ++j) {
        const int iw = left + j;
        inputs[j] = iw >= 0 && iw < p.W ? tile::load<V>(line_of_x + iw * p.x.w) : Pack<T, V>{};
      }
#pragma unroll
      for (int s = 0; s < kW; ++s) {
        const auto tap = tile::load<V>(taps + s * p.weight.w);
#pragma unroll
        for (int a = 0; a < kOutputs; ++a) {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            sums[a][k] += tile::widen(inputs[a * kStride + s].lanes[k]) * tile::widen(tap.lanes[k]);
          }
        }
      }
    } else {
      for (int s = 0; s < p.w.kernel; ++s) {
        const int iw = left + s * p.w.dilation;
        if (iw < 0 || iw >= p.W) continue;
        const auto input = tile::load<V>(line_of_x + iw * p.x.w);
        const auto tap = tile::load<V>(taps + s * p.weight.w);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          sums[0][k] += tile::widen(input.lanes[k]) * tile::widen(tap.lanes[k]);
        }
      }
    }
  }
#pragma unroll
  for (int a = 0; a < kOutputs; ++a) {
    if (ow + a < p.OW) p.pixels.store_at(n, oh, ow + a, o, sums[a]);
  }
}

// The gradient of the input: of each tap the output that read it, if there is one.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) depthwise_input_kernel(const Filter<T> p) {
  using F = Compute<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= static_cast<int64_t>(p.N) * p.H * p.W * int(p.vectors)) return;
  const auto pixel = static_cast<int>(index / int(p.vectors));
  const int c = static_cast<int>(index - static_cast<int64_t>(pixel) * int(p.vectors)) * V;
  const int row = pixel / p.across, w = pixel - row * p.across;
  const int n = row / p.rows, h = row - n * p.rows;
  F sums[V] = {};
  for (int i = 0; i < p.h.kernel; ++i) {
    const int at = h + p.h.padding - i * p.h.dilation, oh = at / p.h.stride;
    if (at < 0 || oh >= p.OH || oh * p.h.stride != at) continue;
    for (int j = 0; j < p.w.kernel; ++j) {
      const int across = w + p.w.padding - j * p.w.dilation, ow = across / p.w.stride;
      if (across < 0 || ow >= p.OW || ow * p.w.stride != across) continue;
      const T* grad = p.x.data + n * p.x.n + oh * p.x.h + ow * p.x.w;
      const T* tap = p.weight.data + i * p.weight.h + j * p.weight.w;
      for (int m = 0; m < p.multiplier; ++m) {
        const int o = c * p.multiplier + m;
        const auto g = tile::load<V>(grad + o), t = tile::load<V>(tap + o);
#pragma unroll
        for (int k = 0; k < V; ++k) sums[k] += tile::widen(g.lanes[k]) * tile::widen(t.lanes[k]);
      }
    }
  }
  p.pixels.store_at(n, h, w, c, sums);
}

// ---- The gradient of the weight

constexpr int kTaps = 8;    // of a row of the kernel, at once
constexpr int kStrip = 16;  // rows of outputs that a thread goes down

// Threads take items one after another: outputs, or strips of a column of them.
template <class T>
struct WeightParts {
  Laid<T> grad, x;
  Axis h, w;
  int N, H, W, OH, items, items_of_part, outputs, lanes, multiplier, runs;
  tile::Divider<int> plane, row;  // items of an image, of a row of them
  Compute<T>* parts;              // [part][tap][outputs]
};

// What a block found of `taps` taps from `first` on.
template <class T, int V, int kCount>
__device__ __forceinline__ void leave_sums(const WeightParts<T>& p, Compute<T> (&sums)[kCount][V],
                                           int first, int taps, int o) {
  const bool leaves = static_cast<int>(threadIdx.x) < p.lanes && o < p.outputs;
  const int64_t of_part = static_cast<int64_t>(p.h.kernel) * p.w.kernel;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (j >= taps) break;  // all threads alike
    tile::over_lines<kThreads>(sums[j], p.lanes);
    if (!leaves) continue;
    Pack<Compute<T>, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.lanes[k] = sums[j][k];
    tile::store(p.parts + (blockIdx.y * of_part + first + j) * p.outputs + o, pack);
  }
}

// Blocks of the kernel's rows run side by side: what one has read the others find in L2.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2) depthwise_weight_kernel(const WeightParts<T> p) {
  using F = Compute<T>;
  const int lane = threadIdx.x % p.lanes, line = threadIdx.x / p.lanes, lines = kThreads / p.lanes;
  const int slices = p.h.kernel * p.runs, block = blockIdx.x / slices;
  const int slice = blockIdx.x - block * slices, i = slice / p.runs;
  const int first = (slice - i * p.runs) * kTaps, taps = min_of(kTaps, p.w.kernel - first);
  const int o = (block * p.lanes + lane) * V;
  const int begin = blockIdx.y * p.items_of_part, end = min_of(begin + p.items_of_part, p.items);
  const int c = V > 1 ? o : o / p.multiplier;
  F sums[kTaps][V] = {};
  for (int pixel = begin + line; o < p.outputs && pixel < end; pixel += lines) {
    const int n = pixel / p.plane, within = pixel - n * p.plane;
    const int oh = within / p.row, ow = within - oh * p.row;
    const int h = oh * p.h.stride - p.h.padding + i * p.h.dilation;
    if (h < 0 || h >= p.H) continue;
    const auto g = tile::load<V>(p.grad.data + n * p.grad.n + oh * p.grad.h + ow * p.grad.w + o);
    const T* x = p.x.data + n * p.x.n + h * p.x.h + c;
    const int left = ow * p.w.stride - p.w.padding + first * p.w.dilation;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      const int w = left + j * p.w.dilation;
      if (j >= taps || w < 0 || w >= p.W) continue;
      const auto input = tile::load<V>(x + w * p.x.w);
#pragma unroll
      for (int k = 0; k < V; ++k)
        sums[j][k] += tile::widen(g.lanes[k]) * tile::widen(input.lanes[k]);
    }
  }
  leave_sums(p, sums, i * p.w.kernel + first, taps, o);
}

// All taps of a kernel of kSize x kSize at once: down a strip each row of inputs is read once, and
// meets those outputs' gradients that read it, which stay in registers.
template <class T, int V, int kSize, int kStride>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_weight_strips_kernel(const WeightParts<T> p) {
  using F = Compute<T>;
  constexpr int kOlder = (kSize - 1) / kStride;  // outputs above that read a row too
  const int lane = threadIdx.x % p.lanes, line = threadIdx.x / p.lanes, lines = kThreads / p.lanes;
  const int o = (blockIdx.x * p.lanes + lane) * V;
  const int begin = blockIdx.y * p.items_of_part, end = min_of(begin + p.items_of_part, p.items);
  F sums[kSize * kSize][V] = {};
  for (int strip = begin + line; o < p.outputs && strip < end; strip += lines) {
    const int n = strip / p.plane, within = strip - n * p.plane, down = within / p.row;
    const int ow = within - down * p.row, first = down * kStrip;
    const int rows = min_of(kStrip, p.OH - first), left = ow * kStride - p.w.padding;
    int h = first * kStride - p.h.padding;
    const T* x = p.x.data + n * p.x.n + h * p.x.h + left * p.x.w + o;
    const T* grad = p.grad.data + n * p.grad.n + first * p.grad.h + ow * p.grad.w + o;
    Pack<T, V> g[kOlder + 1];
#pragma unroll 1
    for (int row = 0; row < rows + kOlder; ++row, grad += p.grad.h) {
#pragma unroll
      for (int d = kOlder; d > 0; --d) g[d] = g[d - 1];
      if (row < rows) g[0] = tile::load<V>(grad);
#pragma unroll
      for (int r = 0; r < kStride; ++r, ++h, x += p.x.h) {
        if (h < 0 || h >= p.H) continue;
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          if (left + j < 0 || left + j >= p.W) continue;
          const auto input = tile::load<V>(x + j * p.x.w);
#pragma unroll
          for (int d = 0; r + kStride * d < kSize; ++d) {
            if (row < d || row - d >= rows) continue;  // no output of the strip's
#pragma unroll
            for (int k = 0; k < V; ++k) {
              sums[(r + kStride * d) * kSize + j][k] +=
                  tile::widen(g[d].lanes[k]) * tile::widen(input.lanes[k]);
            }
          }
        }
      }
    }
  }
  leave_sums(p, sums, 0, kSize * kSize, o);
}

template <class T>
struct WeightResult {
  const Compute<T>* sums;  // [tap][outputs], rounded up
  T* weight;
  Strides stride;  // (o, c, h, w)
  int count, O, outputs, kernel_w;
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    depthwise_result_kernel(const WeightResult<T> p) {
  const auto index = static_cast<int>(pointwise_begin<1>());
  if (index >= p.count) return;
  const int tap = index / p.O, o = index - tap * p.O, i = tap / p.kernel_w;
  p.weight[o * p.stride.n + i * p.stride.h + (tap - i * p.kernel_w) * p.stride.w] =
      tile::narrow<T>(p.sums[tap * p.outputs + o]);
}

// ---- Launches

template <class T, int V>
void launch_filter(const char* op, const Filter<T>& f, const Queue& queue) {
  const int64_t threads = static_cast<int64_t>(f.N) * f.OH * int(f.across) * int(f.vectors);
  const dim3 grid = tile::blocks_for(op, threads, kThreads);
  const auto launch = [&](auto kernel) {
    tile::launch_kernel(op, kernel, grid, kThreads, 0, queue, f);
  };
  if constexpr (V > 1) {
    if (f.w.dilation == 1 && f.w.stride <= 2) {
      const bool one = f.w.stride == 1;
      if (f.w.kernel == 3) {
        return one ? launch(depthwise_kernel<T, V, 3, 1>) : launch(depthwise_kernel<T, V, 3, 2>);
      }
      if (f.w.kernel == 5) {
        return one ? launch(depthwise_kernel<T, V, 5, 1>) : launch(depthwise_kernel<T, V, 5, 2>);
      }
    }
  }
  launch(depthwise_kernel<T, V, 0, 0>);
}

// Outputs of a row that a thread makes.
int outputs_across(const Axis& w, int multiplier) {
  const bool known = w.dilation == 1 && w.stride <= 2 && (w.kernel == 3 || w.kernel == 5);
  return known && multiplier == 1 ? kAcross / w.stride : 1;
}

template <class T>
void run_filter(const char* op, Filter<T> f, const Queue& queue) {
  const int outputs = f.pixels.channels;
  f.across = tile::Divider<int>(ceil_div(f.OW, outputs_across(f.w, f.multiplier)));
  f.rows = tile::Divider<int>(f.OH);
  if (f.multiplier > 1) {
    f.vectors = tile::Divider<int>(outputs);
    return launch_filter<T, 1>(op, f, queue);
  }
  f.vectors = tile::Divider<int>(ceil_div(outputs, kVector<T>));
  launch_filter<T, kVector<T>>(op, f, queue);
}

void check_sizes(const char* op, const Conv2dShape& p) {
  constexpr int64_t kMost = INT32_MAX - 4096;
  const int64_t pixels = max_of(p.N * p.H * p.W, p.N * p.OH * p.OW);
  if (pixels > kMost || p.O * p.h.kernel * p.w.kernel > kMost) {
    throw std::runtime_error(std::string(op) + ": CUDA: got " + std::to_string(pixels) +
                             " pixels, expected sizes below 2^31");
  }
}

// For what looks at all channels side by side.
template <class P>
P in_one_group(P p) {
  p.groups = 1;
  return p;
}

template <class T>
Filter<T> filter_on(const Conv2dShape& p, const Laid<T>& x, const Laid<T>& weight, int64_t H,
                    int64_t W, int64_t OH, int64_t OW) {
  const tile::Divider<int> none(1);
  return {x,
          weight,
          Axis(p.h),
          Axis(p.w),
          static_cast<int>(p.N),
          static_cast<int>(H),
          static_cast<int>(W),
          static_cast<int>(OH),
          static_cast<int>(OW),
          static_cast<int>(p.O / p.C),
          none,
          none,
          none,
          {}};
}

template <class T>
void forward(const Conv2d& p, const Queue& queue) {
  const char* op = "conv2d";
  const Laid<T> x = laid_out<T>(op, {p.x, p.x_stride, p.N, p.C, p.H, p.W, 1}, {}, queue);
  const Laid<T> weight = filter_of<T>(op, p, p.weight, p.w_stride, false, queue);
  Filter<T> f = filter_on(p, x, weight, p.H, p.W, p.OH, p.OW);
  f.pixels = pixels_of<T>(in_one_group(p));
  run_filter(op, f, queue);
}

template <class T>
void backward(const Conv2dBackwardInput& p, const Queue& queue) {
  const char* op = "conv2d_backward_input";
  const Laid<T> grad = laid_out<T>(op, {p.grad_y, p.grad_y_stride, p.N, p.O, p.OH, p.OW, 1},
                                   {p.activation, p.y, p.y_stride}, queue);
  const bool turned = p.O == p.C && p.h.stride == 1 && p.w.stride == 1 &&
                      p.h.padding <= (p.h.kernel - 1) * p.h.dilation &&
                      p.w.padding <= (p.w.kernel - 1) * p.w.dilation;
  const Laid<T> weight = filter_of<T>(op, p, p.weight, p.w_stride, turned, queue);
  Filter<T> f = filter_on(p, grad, weight, p.H, p.W, p.OH, p.OW);
  f.pixels = pixels_of<T>(in_one_group(p));
  if (turned) {
    f.h.padding = (f.h.kernel - 1) * f.h.dilation - f.h.padding;
    f.w.padding = (f.w.kernel - 1) * f.w.dilation - f.w.padding;
    f.H = static_cast<int>(p.OH), f.W = static_cast<int>(p.OW);
    f.OH = static_cast<int>(p.H), f.OW = static_cast<int>(p.W);
    return run_filter(op, f, queue);
  }
  f.across = tile::Divider<int>(p.W), f.rows = tile::Divider<int>(p.H);
  constexpr int V = kVector<T>;
  const bool one = f.multiplier > 1;
  f.vectors = tile::Divider<int>(one ? p.C : ceil_div(p.C, V));
  const dim3 grid = tile::blocks_for(op, p.N * p.H * p.W * int(f.vectors), kThreads);
  one ? tile::launch_kernel(op, depthwise_input_kernel<T, 1>, grid, kThreads, 0, queue, f)
      : tile::launch_kernel(op, depthwise_input_kernel<T, V>, grid, kThreads, 0, queue, f);
}

template <class T>
void backward(const Conv2dBackwardWeight& p, const Queue& queue) {
  using F = Compute<T>;
  const char* op = "conv2d_backward_weight";
  const Laid<T> grad = laid_out<T>(op, {p.grad_y, p.grad_y_stride, p.N, p.O, p.OH, p.OW, 1},
                                   {p.activation, p.y, p.y_stride}, queue);
  const Laid<T> x = laid_out<T>(op, {p.x, p.x_stride, p.N, p.C, p.H, p.W, 1}, {}, queue);
  if (p.grad_bias) sum_bias(op, in_one_group(p), grad, queue);
  const bool one = p.O > p.C;
  const int V = one ? 1 : kVector<T>;
  const int64_t taps = p.h.kernel * p.w.kernel;
  const int64_t outputs = one ? p.O : grad.channels;
  int lanes = 1;
  while (lanes < tile::kWarp && lanes * V < outputs) lanes *= 2;
  const bool strips = !one && p.h.kernel == 3 && p.w.kernel == 3 && p.h.dilation == 1 &&
                      p.w.dilation == 1 && p.h.stride == p.w.stride && p.w.stride <= 2;
  const int64_t rows = strips ? ceil_div(p.OH, int64_t{kStrip}) : p.OH, items = p.N * rows * p.OW;
  const int64_t most_parts = strips ? 384 : 128, worth = strips ? 2 : 16;
  const int64_t at_once = kThreads / lanes;
  const int64_t of_part = max_of(ceil_div(items, most_parts), at_once * worth);
  const int64_t parts = ceil_div(items, of_part), runs = ceil_div(p.w.kernel, int64_t{kTaps});
  F* sums = tile::scratch<F>(queue, (parts + 1) * taps * outputs);
  F* of_parts = sums + taps * outputs;
  const WeightParts<T> w{grad,
                         x,
                         Axis(p.h),
                         Axis(p.w),
                         static_cast<int>(p.N),
                         static_cast<int>(p.H),
                         static_cast<int>(p.W),
                         static_cast<int>(p.OH),
                         static_cast<int>(items),
                         static_cast<int>(of_part),
                         static_cast<int>(outputs),
                         lanes,
                         static_cast<int>(p.O / p.C),
                         static_cast<int>(runs),
                         tile::Divider<int>(rows * p.OW),
                         tile::Divider<int>(p.OW),
                         of_parts};
  if (parts > 0) {
    dim3 grid = tile::blocks_for(op, ceil_div(outputs, int64_t{V}), lanes);
    if (!strips) grid.x *= static_cast<unsigned>(p.h.kernel * runs);
    grid.y = static_cast<unsigned>(parts);
    constexpr int kLanes = kVector<T>;
    const auto kernel = one               ? depthwise_weight_kernel<T, 1>
                        : !strips         ? depthwise_weight_kernel<T, kLanes>
                        : p.w.stride == 1 ? depthwise_weight_strips_kernel<T, kLanes, 3, 1>
                                          : depthwise_weight_strips_kernel<T, kLanes, 3, 2>;
    tile::launch_kernel(op, kernel, grid, kThreads, V * kThreads * sizeof(F), queue, w);
  }
  sum_columns<F>(op, {parts, taps * outputs, taps * outputs, of_parts, sums}, queue);
  const WeightResult<T> result{sums,
                               static_cast<T*>(p.grad_weight),
                               p.w_stride,
                               static_cast<int>(taps * p.O),
                               static_cast<int>(p.O),
                               static_cast<int>(outputs),
                               static_cast<int>(p.w.kernel)};
  launch_pointwise(op, depthwise_result_kernel<T>, result, result.count, 1, queue);
}

}  // namespace

void launch_depthwise(const Conv2d& p, const Queue& queue) {
  check_sizes("conv2d", p);
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

void launch_depthwise(const Conv2dBackwardInput& p, const Queue& queue) {
  check_sizes("conv2d_backward_input", p);
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

void launch_depthwise(const Conv2dBackwardWeight& p, const Queue& queue) {
  check_sizes("conv2d_backward_weight", p);
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
