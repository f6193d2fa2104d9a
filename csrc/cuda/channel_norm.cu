// batch_norm and group_norm (op/channel_norm.h), and conv_bn_act's pass after its convolution: sums
// over parts of each channel, put together in double for each set that shares statistics, then one
// pass over the elements. What is read twice comes from L2 the second time, up to its size.
// Layout: blocks are (channels, parts). In channels_last a thread takes V channels and strides over
// pixels, else V pixels of the block's one channel. Sums are split by shape only: deterministic.
#include "../op/channel_norm.h"
#include "activation.cuh"
#include "moments.cuh"
#include "pointwise.cuh"
#include "tile/divide.cuh"
#include "tile/queue.cuh"
#include "tile/reduce.cuh"

namespace torchext {
namespace {

constexpr int kThreads = 256;

// How a launch is split. A segment is what shares statistics: for batch_norm all pixels, for
// group_norm those of an image; a part is a run of its pixels. Pixels count through all images.
struct Split {
  tile::Divider<int64_t> C, S, parts_of_segment, channels_of_set;
  int64_t segments, pixels_of_segment, pixels_of_part, sets_of_segment;
  int lanes;  // threads along the channels
  bool channels_last;

  int64_t parts() const { return segments * parts_of_segment; }
  int64_t sets() const { return segments * sets_of_segment; }

  Split(const Channels& p, int V)
      : C(p.C),
        S(p.S),
        parts_of_segment(1),
        channels_of_set(p.groups ? p.C / p.groups : 1),
        segments(p.groups ? p.N : 1),
        pixels_of_segment(p.groups ? p.S : p.N * p.S),
        sets_of_segment(p.groups ? p.groups : p.C),
        lanes(1),
        channels_last(p.channels_last) {
    const int step = channels_last ? V : 1;
    while (channels_last && lanes < tile::kWarp && lanes * step < p.C) lanes *= 2;
    // Parts long enough to be worth their sums, and few enough to be put together soon.
    constexpr int64_t kMostBlocks = 2048, kWorth = 16;
    const int64_t at_once = int64_t{kThreads / lanes} * (channels_last ? 1 : V);
    const int64_t most = max_of(kMostBlocks / max_of(tiles(V) * segments, int64_t{1}), int64_t{1});
    const int64_t wanted =
        max_of(min_of(ceil_div(pixels_of_segment, at_once * kWorth), most), int64_t{1});
    pixels_of_part = ceil_div(ceil_div(pixels_of_segment, wanted), at_once) * at_once;
    pixels_of_part = max_of(pixels_of_part, at_once);
    parts_of_segment = tile::Divider<int64_t>(ceil_div(pixels_of_segment, pixels_of_part));
  }
  int64_t tiles(int V) const {
    return channels_last ? ceil_div(int64_t(C), int64_t{lanes} * V) : int64_t(C);
  }
};

// A thread's share of a part: `count` vectors of V elements.
template <int V, bool kLast>
struct Share {
  int64_t part, segment, channel, pixel, end, step;
  bool any;  // whether its channels exist

  __device__ __forceinline__ explicit Share(const Split& s) {
    const int lane = kLast ? threadIdx.x % s.lanes : 0;
    const int row = kLast ? threadIdx.x / s.lanes : threadIdx.x;
    part = blockIdx.y;
    segment = part / s.parts_of_segment;
    channel = kLast ? (static_cast<int64_t>(blockIdx.x) * s.lanes + lane) * V : blockIdx.x;
    const int64_t begin = (part - segment * s.parts_of_segment) * s.pixels_of_part;
    const int64_t first = segment * s.pixels_of_segment;
    pixel = first + begin + row * (kLast ? 1 : V);
    end = first + min_of(begin + s.pixels_of_part, s.pixels_of_segment);
    step = kLast ? kThreads / s.lanes : kThreads * V;
    any = channel < s.C;
  }
  // function(where a vector's elements begin) for all of them.
  template <class Function>
  __device__ __forceinline__ void each(const Split& s, const Function& function) const {
    if (!any) return;
    for (int64_t u = pixel; u < end; u += step) {
      if (kLast) {
        function(u * s.C + channel);
      } else {
        const int64_t image = u / s.S;
        function((image * s.C + channel) * s.S + (u - image * s.S));
      }
    }
  }
  __device__ __forceinline__ int64_t channel_of(int k) const {
    return kLast ? channel + k : channel;
  }
  __device__ __forceinline__ int64_t set_of(const Split& s, int k) const {
    return segment * s.sets_of_segment + channel_of(k) / s.channels_of_set;
  }
};

template <class F>
struct Pair {
  F a, b;
  __device__ __forceinline__ void operator+=(const Pair& other) {
    a += other.a;
    b += other.b;
  }
};

// Along the lanes of one channel: the others of its vector are its own further pixels.
template <int V, bool kLast, class Found>
__device__ __forceinline__ void gather(Found (&found)[V], int lanes) {
  if (kLast) return tile::over_lines<kThreads>(found, lanes);
  Found one[1] = {found[0]};
#pragma unroll
  for (int k = 1; k < V; ++k) one[0] += found[k];
  tile::over_lines<kThreads>(one, 1);
  found[0] = one[0];
}

template <class T>
struct Statistics {
  Split split;
  const T* x;
  Compute<T>*means, *squares;  // [parts][C]
};

template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads, 2) channel_moments_kernel(const Statistics<T> p) {
  using F = Compute<T>;
  const Share<V, kLast> share(p.split);
  F firsts[V];
  RunningMoments<F, V> running{firsts};
  share.each(p.split, [&](int64_t at) {
    const auto pack = tile::load<V>(p.x + at);
    F x[V];
#pragma unroll
    for (int k = 0; k < V; ++k) x[k] = tile::widen(pack.lanes[k]);
    running.add(x);
  });
  Moments<F> found[V];
#pragma unroll
  for (int k = 0; k < V; ++k) found[k] = running.of(k);
  gather<V, kLast>(found, p.split.lanes);
  if (static_cast<int>(threadIdx.x) >= p.split.lanes || !share.any) return;
  const int64_t at = share.part * p.split.C + share.channel;
#pragma unroll
  for (int k = 0; k < (kLast ? V : 1); ++k) {
    p.means[at + k] = found[k].mean;
    p.squares[at + k] = found[k].squares;
  }
}

// ---- What the parts' sums come to: a warp for each set, in double

struct Parts {
  Split split;
  // function(index into [parts][C], channel, part of the segment) for a lane's share of a set.
  template <class Function>
  __device__ __forceinline__ void each(int64_t set, const Function& function) const {
    const int64_t segment = set / split.sets_of_segment;
    const int64_t first = (set - segment * split.sets_of_segment) * split.channels_of_set;
    const int64_t count = split.parts_of_segment * int64_t(split.channels_of_set);
    for (int64_t i = threadIdx.x % tile::kWarp; i < count; i += tile::kWarp) {
      const int64_t part = i / split.channels_of_set;
      const int64_t channel = first + (i - part * split.channels_of_set);
      const int64_t row = segment * split.parts_of_segment + part;
      function(row * split.C + channel, channel, part);
    }
  }
  __device__ __forceinline__ double pixels(int64_t part) const {
    const int64_t begin = part * split.pixels_of_part;
    return static_cast<double>(min_of(split.pixels_of_part, split.pixels_of_segment - begin));
  }
};

// This warp's work.
__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * (kThreads / tile::kWarp) + threadIdx.x / tile::kWarp;
}

template <class F>
struct Finish {
  Parts parts;
  int64_t sets;
  bool training;
  double eps, momentum;
  const F *means, *squares;  // [parts][C]
  const F* counts;           // of parts' pixels; null: the split's
  const F *running_mean, *running_var;
  F *mean, *rstd, *new_running_mean, *new_running_var;
};

template <class F>
__global__ void __launch_bounds__(kThreads) finish_statistics_kernel(const Finish<F> p) {
  const int64_t set = warp_index();
  if (set >= p.sets) return;  // a whole warp
  const bool first = threadIdx.x % tile::kWarp == 0;
  if (!p.training) {
    if (!first) return;
    p.mean[set] = p.running_mean[set];
    p.rstd[set] = static_cast<F>(1 / sqrt(static_cast<double>(p.running_var[set]) + p.eps));
    return;
  }
  const double values = static_cast<double>(p.parts.split.pixels_of_segment) *
                        static_cast<double>(int64_t(p.parts.split.channels_of_set));
  const auto pixels = [&](int64_t part) {
    return p.counts ? static_cast<double>(p.counts[part]) : p.parts.pixels(part);
  };
  double sum = 0;
  p.parts.each(set, [&](int64_t i, int64_t, int64_t part) {
    sum += pixels(part) * static_cast<double>(p.means[i]);
  });
  const double mean = tile::over_warp<tile::Sum>(sum) / values;
  double squares = 0;
  p.parts.each(set, [&](int64_t i, int64_t, int64_t part) {
    const double distance = static_cast<double>(p.means[i]) - mean;
    squares += static_cast<double>(p.squares[i]) + pixels(part) * distance * distance;
  });
  squares = tile::over_warp<tile::Sum>(squares);
  if (!first) return;
  p.mean[set] = static_cast<F>(mean);
  p.rstd[set] = static_cast<F>(1 / sqrt(squares / values + p.eps));
  if (!p.new_running_mean) return;
  const double keep = 1 - p.momentum;
  p.new_running_mean[set] = static_cast<F>(keep * p.running_mean[set] + p.momentum * mean);
  p.new_running_var[set] =
      static_cast<F>(keep * p.running_var[set] + p.momentum * (squares / (values - 1)));
}

// ---- The pass over the elements

// What a channel's elements are normalised with.
template <class F>
struct Affine {
  const F *mean, *rstd, *weight, *bias;
};

template <int V, bool kLast, class F>
struct Coefficients {
  F mean[V], scale[V], shift[V];

  __device__ __forceinline__ Coefficients(const Affine<F>& a, const Split& s,
                                          const Share<V, kLast>& share) {
    if (!share.any) return;
    Pack<F, V> means, rstds, weights, biases;
    if (kLast && s.channels_of_set == 1) {  // each channel has its own, side by side
      const int64_t c = share.channel;
      means = tile::load<V>(a.mean + c);
      rstds = tile::load<V>(a.rstd + c);
      if (a.weight) weights = tile::load<V>(a.weight + c);
      if (a.bias) biases = tile::load<V>(a.bias + c);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const int64_t set = share.set_of(s, k), c = share.channel_of(k);
        means.lanes[k] = a.mean[set];
        rstds.lanes[k] = a.rstd[set];
        if (a.weight) weights.lanes[k] = a.weight[c];
        if (a.bias) biases.lanes[k] = a.bias[c];
      }
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      mean[k] = means.lanes[k];
      scale[k] = a.weight ? rstds.lanes[k] * weights.lanes[k] : rstds.lanes[k];
      shift[k] = a.bias ? biases.lanes[k] : F(0);
    }
  }
};

template <class T>
struct Normalize {
  Split split;
  Affine<Compute<T>> affine;
  Activation activation;
  const T *x, *residual;
  T* y;
};

template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads) channel_norm_kernel(const Normalize<T> p) {
  using F = Compute<T>;
  const Share<V, kLast> share(p.split);
  const Coefficients<V, kLast, F> of(p.affine, p.split, share);
  share.each(p.split, [&](int64_t at) {
    const auto pack = tile::load<V>(p.x + at);
    Pack<T, V> residual{};
    if (p.residual) residual = tile::load<V>(p.residual + at);
    F y[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] = (tile::widen(pack.lanes[k]) - of.mean[k]) * of.scale[k] + of.shift[k];
      if (p.residual) y[k] += tile::widen(residual.lanes[k]);
      y[k] = activate(p.activation, y[k]);
    }
    tile::store_narrow(p.y + at, y);
  });
}

// ---- Backward

// The gradient behind the activation.
template <class T>
struct Gate {
  Affine<Compute<T>> affine;
  Activation activation;
  const T *grad_y, *x, *residual;

  template <int V, bool kLast>
  __device__ __forceinline__ void gated(int64_t at, const Pack<T, V>& own,
                                        const Coefficients<V, kLast, Compute<T>>& of,
                                        Compute<T> (&g)[V]) const {
    const auto grad = tile::load<V>(grad_y + at);
    Pack<T, V> other{};
    if (residual) other = tile::load<V>(residual + at);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      g[k] = tile::widen(grad.lanes[k]);
      if (activation == Activation::none) continue;
      Compute<T> u = (tile::widen(own.lanes[k]) - of.mean[k]) * of.scale[k] + of.shift[k];
      if (residual) u += tile::widen(other.lanes[k]);
      g[k] = times_derivative(activation, g[k],
                              derivative(activation, derivative_argument(activation, u)));
    }
  }
};

template <class T>
struct Sums {
  Split split;
  Gate<T> gate;
  Compute<T>*of_g, *of_products;  // [parts][C]
};

template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads) channel_sums_kernel(const Sums<T> p) {
  using F = Compute<T>;
  const Share<V, kLast> share(p.split);
  const Coefficients<V, kLast, F> of(p.gate.affine, p.split, share);
  Pair<F> found[V] = {};
  share.each(p.split, [&](int64_t at) {
    const auto own = tile::load<V>(p.gate.x + at);
    F g[V];
    p.gate.gated(at, own, of, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      found[k].a += g[k];
      found[k].b += g[k] * (tile::widen(own.lanes[k]) - of.mean[k]);
    }
  });
  gather<V, kLast>(found, p.split.lanes);
  if (static_cast<int>(threadIdx.x) >= p.split.lanes || !share.any) return;
  const int64_t at = share.part * p.split.C + share.channel;
#pragma unroll
  for (int k = 0; k < (kLast ? V : 1); ++k) {
    p.of_g[at + k] = found[k].a;
    p.of_products[at + k] = found[k].b;
  }
}

template <class F>
struct FinishBackward {
  Parts parts;
  int64_t sets;
  const F *of_g, *of_products, *rstd, *weight;
  F *scale, *shift;            // [sets]: grad_x has scale * (x - mean) + shift besides
  F *grad_weight, *grad_bias;  // [C], or null
};

template <class F>
__global__ void __launch_bounds__(kThreads) finish_set_gradients_kernel(const FinishBackward<F> p) {
  const int64_t set = warp_index();
  if (set >= p.sets) return;  // a whole warp
  double of_g = 0, of_products = 0;
  p.parts.each(set, [&](int64_t i, int64_t channel, int64_t) {
    const double weight = p.weight ? static_cast<double>(p.weight[channel]) : 1;
    of_g += weight * static_cast<double>(p.of_g[i]);
    of_products += weight * static_cast<double>(p.of_products[i]);
  });
  of_g = tile::over_warp<tile::Sum>(of_g);
  of_products = tile::over_warp<tile::Sum>(of_products);
  if (threadIdx.x % tile::kWarp != 0) return;
  const double values = static_cast<double>(p.parts.split.pixels_of_segment) *
                        static_cast<double>(int64_t(p.parts.split.channels_of_set));
  const auto rstd = static_cast<double>(p.rstd[set]);
  p.scale[set] = static_cast<F>(-rstd * rstd * rstd * of_products / values);
  p.shift[set] = static_cast<F>(-rstd * of_g / values);
}

template <class F>
__global__ void __launch_bounds__(kThreads)
    finish_weight_gradients_kernel(const FinishBackward<F> p) {
  const Split& split = p.parts.split;
  const int64_t channel = warp_index();
  if (channel >= split.C) return;  // a whole warp
  double of_g = 0, of_products = 0;
  const int64_t rows = split.segments * int64_t(split.parts_of_segment);
  for (int64_t row = threadIdx.x % tile::kWarp; row < rows; row += tile::kWarp) {
    const int64_t segment = row / split.parts_of_segment;
    const int64_t set = segment * split.sets_of_segment + channel / split.channels_of_set;
    of_g += static_cast<double>(p.of_g[row * split.C + channel]);
    of_products += static_cast<double>(p.of_products[row * split.C + channel]) *
                   static_cast<double>(p.rstd[set]);
  }
  of_g = tile::over_warp<tile::Sum>(of_g);
  of_products = tile::over_warp<tile::Sum>(of_products);
  if (threadIdx.x % tile::kWarp != 0) return;
  p.grad_weight[channel] = static_cast<F>(of_products);
  p.grad_bias[channel] = static_cast<F>(of_g);
}

template <class T>
struct Gradients {
  Split split;
  Gate<T> gate;
  bool training;
  const Compute<T>*scale, *shift;  // [sets]
  T *grad_x, *grad_residual;
};

template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads) channel_gradients_kernel(const Gradients<T> p) {
  using F = Compute<T>;
  const Share<V, kLast> share(p.split);
  const Coefficients<V, kLast, F> of(p.gate.affine, p.split, share);
  F scale[V] = {}, shift[V] = {};
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (!p.training || !share.any) continue;
    const int64_t set = share.set_of(p.split, k);
    scale[k] = p.scale[set];
    shift[k] = p.shift[set];
  }
  const bool reads_x = p.training || p.gate.activation != Activation::none;
  share.each(p.split, [&](int64_t at) {
    Pack<T, V> own{};
    if (reads_x) own = tile::load<V>(p.gate.x + at);
    F g[V], grad_x[V];
    p.gate.gated(at, own, of, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      grad_x[k] = g[k] * of.scale[k];
      if (p.training) {
        grad_x[k] += (tile::widen(own.lanes[k]) - of.mean[k]) * scale[k] + shift[k];
      }
    }
    tile::store_narrow(p.grad_x + at, grad_x);
    if (p.grad_residual) tile::store_narrow(p.grad_residual + at, g);
  });
}

// ---- Launches

// choose(V, whether channels are last), as std::integral_constants.
template <class T, class Choose, class... Tensors>
void for_layout(const Channels& p, const Affine<Compute<T>>& affine, const Choose& choose,
                const Tensors*... tensors) {
  using Vector = std::integral_constant<int, kVector<T>>;
  using One = std::integral_constant<int, 1>;
  const bool vectors =
      (p.channels_last ? p.C : p.S) % kVector<T> == 0 && all_aligned<T>(tensors...) &&
      all_aligned<Compute<T>>(affine.mean, affine.rstd, affine.weight, affine.bias);
  if (p.channels_last) {
    return vectors ? choose(Vector{}, std::true_type{}) : choose(One{}, std::true_type{});
  }
  vectors ? choose(Vector{}, std::false_type{}) : choose(One{}, std::false_type{});
}

template <class P>
void launch_split(const char* op, void (*kernel)(P), const P& p, int V, size_t shared,
                  const Queue& queue) {
  dim3 grid = tile::blocks_for(op, p.split.tiles(V), 1);
  grid.y = static_cast<unsigned>(p.split.parts());
  if (grid.y > 0) tile::launch_kernel(op, kernel, grid, kThreads, shared, queue, p);
}

template <class P>
void launch_warps(const char* op, void (*kernel)(P), const P& p, int64_t warps,
                  const Queue& queue) {
  if (warps == 0) return;
  const dim3 grid = tile::blocks_for(op, warps, kThreads / tile::kWarp);
  tile::launch_kernel(op, kernel, grid, kThreads, 0, queue, p);
}

const char* name_of(const Channels& p, bool backward) {
  if (p.groups) return backward ? "group_norm_backward" : "group_norm";
  return backward ? "batch_norm_backward" : "batch_norm";
}

template <class T>
void forward(const ChannelNorm& n, const Queue& queue) {
  using F = Compute<T>;
  const char* op = name_of(n, false);
  const auto in = [](const void* tensor) { return static_cast<const T*>(tensor); };
  const auto wide = [](const void* tensor) { return static_cast<const F*>(tensor); };
  const Affine<F> affine{wide(n.mean), wide(n.rstd), wide(n.weight), wide(n.bias)};
  const auto launch_as = [&](auto V, auto last) {
    const Split split(n, V());
    Parts parts{split};
    const F *means = wide(n.channel_means), *squares = wide(n.channel_squares);
    if (means) {
      parts.split.parts_of_segment = tile::Divider<int64_t>(n.parts);
    } else if (n.training) {
      F* found = tile::scratch<F>(queue, 2 * split.parts() * n.C);
      const Statistics<T> statistics{split, in(n.x), found, found + split.parts() * n.C};
      launch_split(op, channel_moments_kernel<T, V(), last()>, statistics, V(),
                   V() * kThreads * sizeof(Moments<F>), queue);
      means = statistics.means, squares = statistics.squares;
    }
    const Finish<F> finish{parts,
                           split.sets(),
                           n.training,
                           n.eps,
                           n.momentum,
                           means,
                           squares,
                           wide(n.part_counts),
                           wide(n.running_mean),
                           wide(n.running_var),
                           static_cast<F*>(n.mean),
                           static_cast<F*>(n.rstd),
                           static_cast<F*>(n.new_running_mean),
                           static_cast<F*>(n.new_running_var)};
    launch_warps(op, finish_statistics_kernel<F>, finish, split.sets(), queue);
    const Normalize<T> normalize{split,   affine,         n.activation,
                                 in(n.x), in(n.residual), static_cast<T*>(n.y)};
    launch_split(op, channel_norm_kernel<T, V(), last()>, normalize, V(), 0, queue);
  };
  for_layout<T>(n, affine, launch_as, n.x, n.residual, n.y);
}

template <class T>
void backward(const ChannelNormBackward& n, const Queue& queue) {
  using F = Compute<T>;
  const char* op = name_of(n, true);
  const auto in = [](const void* tensor) { return static_cast<const T*>(tensor); };
  const auto wide = [](const void* tensor) { return static_cast<const F*>(tensor); };
  const Affine<F> affine{wide(n.mean), wide(n.rstd), wide(n.weight), wide(n.bias)};
  const auto launch_as = [&](auto V, auto last) {
    const Split split(n, V());
    const Gate<T> gate{affine, n.activation, in(n.grad_y), in(n.x), in(n.residual)};
    const bool of_weights = n.grad_weight != nullptr;
    F *scale = nullptr, *shift = nullptr;
    if (n.training || of_weights) {
      F* of_g = tile::scratch<F>(queue, 2 * split.parts() * n.C);
      F* of_products = of_g + split.parts() * n.C;
      launch_split(op, channel_sums_kernel<T, V(), last()>, Sums<T>{split, gate, of_g, of_products},
                   V(), V() * kThreads * sizeof(Pair<F>), queue);
      scale = tile::scratch<F>(queue, 2 * split.sets());
      shift = scale + split.sets();
      const FinishBackward<F> finish{{split},
                                     split.sets(),
                                     of_g,
                                     of_products,
                                     wide(n.rstd),
                                     wide(n.weight),
                                     scale,
                                     shift,
                                     static_cast<F*>(n.grad_weight),
                                     static_cast<F*>(n.grad_bias)};
      if (n.training) {
        launch_warps(op, finish_set_gradients_kernel<F>, finish, split.sets(), queue);
      }
      if (of_weights) launch_warps(op, finish_weight_gradients_kernel<F>, finish, n.C, queue);
    }
    const Gradients<T> gradients{split,
                                 gate,
                                 n.training,
                                 scale,
                                 shift,
                                 static_cast<T*>(n.grad_x),
                                 static_cast<T*>(n.grad_residual)};
    launch_split(op, channel_gradients_kernel<T, V(), last()>, gradients, V(), 0, queue);
  };
  for_layout<T>(n, affine, launch_as, n.grad_y, n.x, n.residual, n.grad_x, n.grad_residual);
}

}  // namespace

void launch(const ChannelNorm& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

void launch(const ChannelNormBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
