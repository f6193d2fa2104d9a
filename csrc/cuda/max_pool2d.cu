// max_pool2d: y[o] = max over the window's taps of x, NaN winning, the first of equal values kept;
// training also saves the winning tap. Backward: grad_x[i] = sum of the grad_y[o] that chose i.
// Layout: one thread makes one output (backward: one input) of 16 bytes of channels where tensors
// are channels_last and aligned, of one element otherwise; neighbouring threads write neighbouring
// elements. Backward gathers, in ascending order of outputs: deterministic, no atomics.
#include "../op/max_pool2d.h"
#include "pool2d.cuh"

namespace torchext {
namespace {

// Saved winners are bytes, or int32 where windows have over 256 taps.
template <int V, class I>
__device__ __forceinline__ void store_winners(void* offsets, bool wide, I at,
                                              const int32_t (&winner)[V]) {
  if (wide) {
    Pack<int32_t, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.lanes[k] = winner[k];
    tile::store(static_cast<int32_t*>(offsets) + at, pack);
  } else {
    Pack<uint8_t, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.lanes[k] = static_cast<uint8_t>(winner[k]);
    tile::store(static_cast<uint8_t*>(offsets) + at, pack);
  }
}

template <int V, class I>
__device__ __forceinline__ void load_winners(const void* offsets, bool wide, I at,
                                             int32_t (&winner)[V]) {
  if (wide) {
    const auto pack = tile::load<V>(static_cast<const int32_t*>(offsets) + at);
#pragma unroll
    for (int k = 0; k < V; ++k) winner[k] = pack.lanes[k];
  } else {
    const auto pack = tile::load<V>(static_cast<const uint8_t*>(offsets) + at);
#pragma unroll
    for (int k = 0; k < V; ++k) winner[k] = pack.lanes[k];
  }
}

template <int V>
bool winners_in_vectors(const void* offsets, bool wide, const Strides& stride, int64_t C) {
  return wide ? in_vectors<int32_t, V>(offsets, stride, C)
              : in_vectors<uint8_t, V>(offsets, stride, C);
}

template <class T, class I>
struct Forward {
  Geometry<I> g;
  StridesOf<I> x_stride;
  const T* x;
  T* y;
  void* offsets;
  bool wide_offsets;
};

template <class T, int V, bool kSaves, class I>
__global__ void __launch_bounds__(kThreads) max_pool2d_kernel(const Forward<T, I> p) {
  const I index = static_cast<I>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.g.count) return;
  const Place<I> o = place_of<V>(p.g, index);
  const RangeOf<I> rows = taps_inside(p.g.h, o.h, I(p.g.H));
  const RangeOf<I> columns = taps_inside(p.g.w, o.w, I(p.g.W));
  const I top = o.h * p.g.h.stride - p.g.h.padding, left = o.w * p.g.w.stride - p.g.w.padding;
  const T* x = p.x + (o.n * p.x_stride.n + o.c * p.x_stride.c);

  // The first tap inside wins until another is better; a window wholly in padding keeps 0.
  const bool empty = rows.begin == rows.end || columns.begin == columns.end;
  Compute<T> best[V];
  int32_t winner[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    best[k] = -static_cast<Compute<T>>(__builtin_inf());
    winner[k] = empty ? 0 : static_cast<int32_t>(rows.begin * p.g.w.kernel + columns.begin);
  }

  for (I i = rows.begin; i < rows.end; ++i) {
    const I row = (top + i * p.g.h.dilation) * p.x_stride.h;
#pragma unroll 3  // as wide as most windows: a row's loads are in flight together
    for (I j = columns.begin; j < columns.end; ++j) {
      const auto tap = tile::load<V>(x + (row + (left + j * p.g.w.dilation) * p.x_stride.w));
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const Compute<T> value = tile::widen(tap.lanes[k]);
        const bool better = value > best[k] || value != value;
        best[k] = better ? value : best[k];
        winner[k] = better ? static_cast<int32_t>(i * p.g.w.kernel + j) : winner[k];
      }
    }
  }
  tile::store_narrow(p.y + index * V, best);
  if (kSaves) store_winners(p.offsets, p.wide_offsets, index * V, winner);
}

template <class T, int V, bool kSaves, class I>
void pool(const MaxPool2d& p, const Queue& queue) {
  const Forward<T, I> f{{p, V, p.OH, p.OW, p.y_stride},
                        StridesOf<I>(p.x_stride),
                        static_cast<const T*>(p.x),
                        static_cast<T*>(p.y),
                        p.offsets,
                        p.wide_offsets};
  launch_over("max_pool2d", max_pool2d_kernel<T, V, kSaves, I>, f, queue);
}

template <class T, bool kSaves>
void pool(const MaxPool2d& p, const Queue& queue) {
  constexpr int V = kVector<T>;
  const bool narrow = fits_32_bits(p, {{p.x_stride, p.H, p.W}, {p.y_stride, p.OH, p.OW}});
  if (in_vectors<T>(p.x, p.x_stride, p.C) && in_vectors<T>(p.y, p.y_stride, p.C) &&
      (!kSaves || winners_in_vectors<V>(p.offsets, p.wide_offsets, p.y_stride, p.C))) {
    return narrow ? pool<T, V, kSaves, int32_t>(p, queue) : pool<T, V, kSaves, int64_t>(p, queue);
  }
  return narrow ? pool<T, 1, kSaves, int32_t>(p, queue) : pool<T, 1, kSaves, int64_t>(p, queue);
}

template <class T, class I>
struct Backward {
  Geometry<I> g;
  StridesOf<I> grad_y_stride, offset_stride;
  const T* grad_y;
  const void* offsets;
  T* grad_x;
  bool wide_offsets;
};

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) max_pool2d_backward_kernel(const Backward<T, I> p) {
  const I index = static_cast<I>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.g.count) return;
  const Place<I> x = place_of<V>(p.g, index);
  const RangeOf<I> rows = outputs_over(p.g.h, x.h, I(p.g.OH));
  const RangeOf<I> columns = outputs_over(p.g.w, x.w, I(p.g.OW));
  const StridesOf<I>&gs = p.grad_y_stride, &os = p.offset_stride;
  const T* grad_y = p.grad_y + (x.n * gs.n + x.c * gs.c);
  const I winners = x.n * os.n + x.c * os.c;

  Compute<T> sum[V] = {};
  for (I oh = rows.begin; oh < rows.end; ++oh) {
    const I i = tap_at(p.g.h, x.h, oh);
    if (i < 0) continue;
#pragma unroll 1  // mostly one or two outputs
    for (I ow = columns.begin; ow < columns.end; ++ow) {
      const I j = tap_at(p.g.w, x.w, ow);
      if (j < 0) continue;
      const auto here = static_cast<int32_t>(i * p.g.w.kernel + j);
      int32_t winner[V];
      load_winners(p.offsets, p.wide_offsets, winners + (oh * os.h + ow * os.w), winner);
      const auto grad = tile::load<V>(grad_y + (oh * gs.h + ow * gs.w));
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if (winner[k] == here) sum[k] += tile::widen(grad.lanes[k]);
      }
    }
  }
  tile::store_narrow(p.grad_x + index * V, sum);
}

template <class T, int V, class I>
void gather(const MaxPool2dBackward& p, const Queue& queue) {
  const Backward<T, I> b{{p, V, p.H, p.W, p.grad_x_stride},
                         StridesOf<I>(p.grad_y_stride),
                         StridesOf<I>(p.offset_stride),
                         static_cast<const T*>(p.grad_y),
                         p.offsets,
                         static_cast<T*>(p.grad_x),
                         p.wide_offsets};
  launch_over("max_pool2d_backward", max_pool2d_backward_kernel<T, V, I>, b, queue);
}

template <class T>
void gather(const MaxPool2dBackward& p, const Queue& queue) {
  constexpr int V = kVector<T>;
  const bool narrow = fits_32_bits(
      p,
      {{p.grad_y_stride, p.OH, p.OW}, {p.offset_stride, p.OH, p.OW}, {p.grad_x_stride, p.H, p.W}});
  if (in_vectors<T>(p.grad_y, p.grad_y_stride, p.C) &&
      in_vectors<T>(p.grad_x, p.grad_x_stride, p.C) &&
      winners_in_vectors<V>(p.offsets, p.wide_offsets, p.offset_stride, p.C)) {
    return narrow ? gather<T, V, int32_t>(p, queue) : gather<T, V, int64_t>(p, queue);
  }
  return narrow ? gather<T, 1, int32_t>(p, queue) : gather<T, 1, int64_t>(p, queue);
}

// 64-bit throughout: a conversion for users who ask for indices, not a hot path.
struct Indices {
  Geometry<int64_t> g;
  Strides offset_stride;
  const void* offsets;
  int64_t* indices;
  bool wide_offsets;
};

__global__ void __launch_bounds__(kThreads) max_pool2d_indices_kernel(const Indices p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.g.count) return;
  const Place<int64_t> o = place_of<1>(p.g, index);
  const Strides& os = p.offset_stride;
  int32_t winner[1];
  load_winners(p.offsets, p.wide_offsets, o.n * os.n + o.c * os.c + o.h * os.h + o.w * os.w,
               winner);
  const int64_t i = winner[0] / p.g.w.kernel, j = winner[0] % p.g.w.kernel;
  const int64_t h = o.h * p.g.h.stride - p.g.h.padding + i * p.g.h.dilation;
  const int64_t w = o.w * p.g.w.stride - p.g.w.padding + j * p.g.w.dilation;
  // A window wholly inside the padding has no index: the nearest input's is a harmless one.
  const int64_t inside_h = min_of(max_of(h, 0), p.g.H - 1);
  const int64_t inside_w = min_of(max_of(w, 0), p.g.W - 1);
  p.indices[index] = inside_h * p.g.W + inside_w;
}

}  // namespace

void launch(const MaxPool2d& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    p.offsets ? pool<T, true>(p, queue) : pool<T, false>(p, queue);
  });
}

void launch(const MaxPool2dBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { gather<decltype(zero)>(p, queue); });
}

void launch(const MaxPool2dIndices& p, const Queue& queue) {
  const Indices f{
      {p, 1, p.OH, p.OW, p.index_stride}, p.offset_stride, p.offsets, p.indices, p.wide_offsets};
  launch_over("max_pool2d_indices", max_pool2d_indices_kernel, f, queue);
}

}  // namespace torchext
