// avg_pool2d and adaptive_avg_pool2d: y[o] = sum over the window of x / divisor, summed in float
// (f64 in double). Backward: grad_x[i] = sum over the outputs that read i of grad_y[o] / divisor.
// Layout: one thread makes one output (backward: one input) of 16 bytes of channels where tensors
// are channels_last and aligned, of one element otherwise; neighbouring threads write neighbouring
// elements. Long windows (global average) are split among threads, by shape only, and summed up in
// a fixed order. Backward gathers, in ascending order of outputs. Deterministic, no atomics.
#include "../op/avg_pool2d.h"
#include "pool2d.cuh"
#include "tile/reduce.cuh"

namespace torchext {
namespace {

// How outputs average, the same in both directions.
template <class T>
struct Rule {
  bool adaptive, count_include_pad, overridden;
  Compute<T> divisor;  // if overridden

  template <class P>
  explicit Rule(const P& p)
      : adaptive(p.adaptive),
        count_include_pad(p.count_include_pad),
        overridden(p.divisor_override != 0),
        divisor(static_cast<Compute<T>>(p.divisor_override)) {}

  template <class I>
  __device__ SpanOf<I> rows(const Geometry<I>& g, I oh) const {
    return averaged(g.h, adaptive, count_include_pad, oh, g.H, g.OH);
  }
  template <class I>
  __device__ SpanOf<I> columns(const Geometry<I>& g, I ow) const {
    return averaged(g.w, adaptive, count_include_pad, ow, g.W, g.OW);
  }
  template <class I>
  __device__ Compute<T> divisor_of(const SpanOf<I>& rows, const SpanOf<I>& columns) const {
    return overridden ? divisor : static_cast<Compute<T>>(rows.counted * columns.counted);
  }
};

template <class T, class I>
struct Forward {
  Geometry<I> g;
  Rule<T> rule;
  StridesOf<I> x_stride;
  const T* x;
  T* y;
};

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) avg_pool2d_kernel(const Forward<T, I> p) {
  const I index = static_cast<I>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.g.count) return;
  const Place<I> o = place_of<V>(p.g, index);
  const SpanOf<I> rows = p.rule.rows(p.g, o.h), columns = p.rule.columns(p.g, o.w);
  const T* x = p.x + (o.n * p.x_stride.n + o.c * p.x_stride.c);

  Compute<T> sum[V] = {};
  for (I h = rows.begin; h < rows.end; ++h) {
    const I row = h * p.x_stride.h;
#pragma unroll 3  // as wide as most windows: a row's loads are in flight together
    for (I w = columns.begin; w < columns.end; ++w) {
      const auto tap = tile::load<V>(x + (row + w * p.x_stride.w));
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += tile::widen(tap.lanes[k]);
    }
  }

  const Compute<T> divisor = p.rule.divisor_of(rows, columns);
#pragma unroll
  for (int k = 0; k < V; ++k) sum[k] /= divisor;
  tile::store_narrow(p.y + index * V, sum);
}

// A block makes kThreads / parts vectors of y; of each, `parts` threads sum every parts-th input.
// `lanes` neighbouring threads make neighbouring vectors: channels, which lie together in x too.
template <class T, class I>
struct SplitForward : Forward<T, I> {
  int parts, lanes;  // powers of two
};

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) avg_pool2d_split_kernel(const SplitForward<T, I> p) {
  const int thread = threadIdx.x;
  const int lane = thread % p.lanes, part = thread / p.lanes % p.parts;
  const int group = thread / p.lanes / p.parts;
  const I index = static_cast<I>(blockIdx.x) * (kThreads / p.parts) + (group * p.lanes + lane);
  const bool made = index < p.g.count;  // the others only keep the block's barriers company

  // This thread's inputs
  const Place<I> o = place_of<V>(p.g, made ? index : 0);
  const SpanOf<I> rows = p.rule.rows(p.g, o.h), columns = p.rule.columns(p.g, o.w);
  const T* x = p.x + (o.n * p.x_stride.n + o.c * p.x_stride.c);
  const I width = columns.end - columns.begin;
  const I taps = made ? (rows.end - rows.begin) * width : 0;
  const I down = p.parts / width, right = p.parts % width;
  I h = rows.begin + part / width, w = columns.begin + part % width;
  Compute<T> sum[V] = {};
#pragma unroll 4  // loads in flight: few threads have a long way to go
  for (I tap = part; tap < taps; tap += p.parts) {
    const auto pack = tile::load<V>(x + (h * p.x_stride.h + w * p.x_stride.w));
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] += tile::widen(pack.lanes[k]);
    h += down;
    w += right;
    if (w >= columns.end) {
      w -= width;
      ++h;
    }
  }

  tile::over_lines<kThreads>(sum, p.lanes, p.parts);
  if (part != 0 || !made) return;
  const Compute<T> divisor = p.rule.divisor_of(rows, columns);
#pragma unroll
  for (int k = 0; k < V; ++k) sum[k] /= divisor;
  tile::store_narrow(p.y + index * V, sum);
}

// How many inputs an output averages (at most), and has for itself.
int64_t inputs_per_window(const AvgPool2d& p) {
  return p.adaptive ? ceil_div(p.H, p.OH) * ceil_div(p.W, p.OW)
                    : min_of(p.h.kernel, p.H) * min_of(p.w.kernel, p.W);
}
int64_t inputs_per_output(const AvgPool2d& p) { return (p.H / p.OH) * (p.W / p.OW); }

int power_of_two_within(int64_t value, int least, int most) {
  int power = least;
  while (power < most && 2 * power <= value) power *= 2;
  return power;
}

template <class T, int V, class I>
void average(const AvgPool2d& p, const Queue& queue) {
  const char* op = p.adaptive ? "adaptive_avg_pool2d" : "avg_pool2d";
  const Forward<T, I> f{{p, V, p.OH, p.OW, p.y_stride},
                        Rule<T>(p),
                        StridesOf<I>(p.x_stride),
                        static_cast<const T*>(p.x),
                        static_cast<T*>(p.y)};
  constexpr int kLong = 16;  // inputs: where overlapping windows share loads, splitting has no use
  if (inputs_per_window(p) < kLong || inputs_per_output(p) < kLong) {
    return launch_over(op, avg_pool2d_kernel<T, V, I>, f, queue);
  }
  // A group of threads that lie together reads whole 128-byte lines.
  constexpr int kLine = 128 / (V * sizeof(T));
  const int lanes = f.g.channels_last ? power_of_two_within(p.C / V, 1, kLine) : 1;
  const int parts = power_of_two_within(inputs_per_window(p) / 4, 32 / lanes > 1 ? 32 / lanes : 1,
                                        kThreads / lanes);
  const SplitForward<T, I> split{f, parts, lanes};
  tile::launch_kernel(op, avg_pool2d_split_kernel<T, V, I>,
                      tile::blocks_for(op, f.g.count, kThreads / parts), kThreads,
                      kThreads * V * sizeof(Compute<T>), queue, split);
}

template <class T>
void average(const AvgPool2d& p, const Queue& queue) {
  const bool narrow = fits_32_bits(p, {{p.x_stride, p.H, p.W}, {p.y_stride, p.OH, p.OW}});
  if (in_vectors<T>(p.x, p.x_stride, p.C) && in_vectors<T>(p.y, p.y_stride, p.C)) {
    constexpr int V = kVector<T>;
    return narrow ? average<T, V, int32_t>(p, queue) : average<T, V, int64_t>(p, queue);
  }
  return narrow ? average<T, 1, int32_t>(p, queue) : average<T, 1, int64_t>(p, queue);
}

template <class T, class I>
struct Backward {
  Geometry<I> g;
  Rule<T> rule;
  StridesOf<I> grad_y_stride;
  const T* grad_y;
  T* grad_x;
};

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) avg_pool2d_backward_kernel(const Backward<T, I> p) {
  const I index = static_cast<I>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.g.count) return;
  const Place<I> x = place_of<V>(p.g, index);
  const RangeOf<I> rows = p.rule.adaptive ? adaptive_outputs_over(x.h, p.g.H, p.g.OH)
                                          : outputs_over(p.g.h, x.h, I(p.g.OH));
  const RangeOf<I> columns = p.rule.adaptive ? adaptive_outputs_over(x.w, p.g.W, p.g.OW)
                                             : outputs_over(p.g.w, x.w, I(p.g.OW));
  const T* grad_y = p.grad_y + (x.n * p.grad_y_stride.n + x.c * p.grad_y_stride.c);

  Compute<T> sum[V] = {};
  for (I oh = rows.begin; oh < rows.end; ++oh) {
    const SpanOf<I> height = p.rule.rows(p.g, oh);
#pragma unroll 1  // mostly one output, two where windows overlap
    for (I ow = columns.begin; ow < columns.end; ++ow) {
      const Compute<T> divisor = p.rule.divisor_of(height, p.rule.columns(p.g, ow));
      const auto grad = tile::load<V>(grad_y + (oh * p.grad_y_stride.h + ow * p.grad_y_stride.w));
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += tile::widen(grad.lanes[k]) / divisor;
    }
  }
  tile::store_narrow(p.grad_x + index * V, sum);
}

template <class T, int V, class I>
void spread(const AvgPool2dBackward& p, const Queue& queue) {
  const Backward<T, I> b{{p, V, p.H, p.W, p.grad_x_stride},
                         Rule<T>(p),
                         StridesOf<I>(p.grad_y_stride),
                         static_cast<const T*>(p.grad_y),
                         static_cast<T*>(p.grad_x)};
  const char* op = p.adaptive ? "adaptive_avg_pool2d_backward" : "avg_pool2d_backward";
  launch_over(op, avg_pool2d_backward_kernel<T, V, I>, b, queue);
}

template <class T>
void spread(const AvgPool2dBackward& p, const Queue& queue) {
  const bool narrow = fits_32_bits(p, {{p.grad_y_stride, p.OH, p.OW}, {p.grad_x_stride, p.H, p.W}});
  if (in_vectors<T>(p.grad_y, p.grad_y_stride, p.C) &&
      in_vectors<T>(p.grad_x, p.grad_x_stride, p.C)) {
    constexpr int V = kVector<T>;
    return narrow ? spread<T, V, int32_t>(p, queue) : spread<T, V, int64_t>(p, queue);
  }
  return narrow ? spread<T, 1, int32_t>(p, queue) : spread<T, 1, int64_t>(p, queue);
}

}  // namespace

void launch(const AvgPool2d& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { average<decltype(zero)>(p, queue); });
}

void launch(const AvgPool2dBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { spread<decltype(zero)>(p, queue); });
}

}  // namespace torchext
