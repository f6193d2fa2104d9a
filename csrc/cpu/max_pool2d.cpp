// max_pool2d on the CPU, compiled once per ISA. Lanes run along C where y is channels_last and
// along a row of outputs otherwise; border outputs, whose windows are cut, go one by one. Backward
// gathers in channels_last (each input sums the outputs that chose it) and scatters plane by plane
// in NCHW, both in ascending order of outputs: deterministic, and the same bits in both layouts.
#include "../op/max_pool2d.h"

#include "pool2d.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

struct NoOffset {};  // inference: no winner to save
template <class Offset>
constexpr bool kSaves = true;
template <>
constexpr bool kSaves<NoOffset> = false;

template <class Offset>
constexpr bool kWide = sizeof(Offset) == sizeof(int32_t);

// A run of outputs adjacent in y whose windows have the same taps.
template <class T, class Offset>
struct Run {
  const T* x;
  int64_t at, step;  // element of tap (0, 0) of the first output, and from one output to the next
  Range rows, columns;
  T* y;
  Offset* offsets;
};

// Outputs k ... k + U N - 1 of a run, as U vectors of N lanes.
template <int N, int U, int Step, class T, class Offset>
INLINE void pool_vectors(const MaxPool2d& p, const Run<T, Offset>& run, int64_t k) {
  using V = Vec<Compute<T>, N>;
  using I = Vec<Integer<T>, N>;
  const bool empty = run.rows.begin == run.rows.end || run.columns.begin == run.columns.end;
  const int64_t first = empty ? 0 : run.rows.begin * p.w.kernel + run.columns.begin;
  V best[U];
  I winner[U];
  for (int u = 0; u < U; ++u) {
    best[u] = V{} - static_cast<Compute<T>>(__builtin_inf());
    winner[u] = I{} + static_cast<Integer<T>>(first);
  }
  for (int64_t i = run.rows.begin; i < run.rows.end; ++i) {
    const int64_t row = run.at + i * p.h.dilation * p.x_stride.h + k * run.step;
    for (int64_t j = run.columns.begin; j < run.columns.end; ++j) {
      const T* tap = run.x + (row + j * p.w.dilation * p.x_stride.w);
      const I here = I{} + static_cast<Integer<T>>(i * p.w.kernel + j);
      for (int u = 0; u < U; ++u) {
        const V v = load_lanes<N, Step>(tap + u * N * run.step);
        if constexpr (kSaves<Offset>) {
          const auto better = (v > best[u]) | (v != v);
          best[u] = better ? v : best[u];
          winner[u] = better ? here : winner[u];
        } else {
          best[u] = max_keep_first(best[u], v);
        }
      }
    }
  }
  for (int u = 0; u < U; ++u) {
    store<N>(run.y + k + u * N, best[u]);
    if constexpr (kSaves<Offset>) store_integers<N>(run.offsets + k + u * N, winner[u]);
  }
}

template <int N, int Step, class T, class Offset>
INLINE void pool_rest(const MaxPool2d& p, const Run<T, Offset>& run, int64_t k, int64_t count) {
  if (k + N <= count) {
    pool_vectors<N, 1, Step>(p, run, k);
    k += N;
  }
  if constexpr (N > 1) pool_rest<N / 2, Step>(p, run, k, count);
}

template <int Step, class T, class Offset>
INLINE void pool_run(const MaxPool2d& p, const Run<T, Offset>& run, int64_t count) {
  constexpr int N = Step == 0 || kWide<Offset> ? 1 : kLanes<T>;  // rare cases go one by one
  int64_t k = 0;
  for (; k + 4 * N <= count; k += 4 * N) pool_vectors<N, 4, Step>(p, run, k);
  for (; k + N <= count; k += N) pool_vectors<N, 1, Step>(p, run, k);
  if constexpr (N > 1) pool_rest<N / 2, Step>(p, run, k, count);
}

template <class T, class Offset>
INLINE Run<T, Offset> run_at(const MaxPool2d& p, int64_t n, int64_t c, int64_t oh, int64_t ow) {
  const Strides &xs = p.x_stride, &ys = p.y_stride;
  const int64_t h = oh * p.h.stride - p.h.padding, w = ow * p.w.stride - p.w.padding;
  const int64_t to = n * ys.n + c * ys.c + oh * ys.h + ow * ys.w;
  Run<T, Offset> run;
  run.x = static_cast<const T*>(p.x);
  run.at = n * xs.n + c * xs.c + h * xs.h + w * xs.w;
  run.step = 1;
  run.rows = taps_inside(p.h, oh, p.H);
  run.columns = taps_inside(p.w, ow, p.W);
  run.y = static_cast<T*>(p.y) + to;
  run.offsets = kSaves<Offset> ? static_cast<Offset*>(p.offsets) + to : nullptr;
  return run;
}

// The outputs of a row whose windows are not cut on the left or right: all their columns' taps.
INLINE Range uncut_outputs(const MaxPool2d& p) {
  const int64_t reach = p.W + p.w.padding - (p.w.kernel - 1) * p.w.dilation;
  const int64_t begin = min_of(p.OW, ceil_div(p.w.padding, p.w.stride));
  return {begin, max_of(begin, min_of(p.OW, reach > 0 ? ceil_div(reach, p.w.stride) : 0))};
}

// A block of channels of one output whose whole window, KH x KW taps, lies inside the input.
template <int KH, int KW, class T, class Offset>
INLINE void pool_block(const T* x, int64_t row, int64_t column, T* y, Offset* offsets,
                       bool stream) {
  Block<T> best, v;
  IntegerBlock<T> winner = {};
  load_block(x, best);
#pragma GCC unroll 9
  for (int tap = 1; tap < KH * KW; ++tap) {
    load_block(x + tap / KW * row + tap % KW * column, v);
    for (int u = 0; u < kBlockVectors; ++u) {
      if constexpr (kSaves<Offset>) {
        const auto better = (v[u] > best[u]) | (v[u] != v[u]);
        best[u] = better ? v[u] : best[u];
        winner[u] = better ? decltype(winner[u] + 0){} + tap : winner[u];
      } else {
        best[u] = max_keep_first(best[u], v[u]);
      }
    }
  }
  store_block_exact(y, best, stream);
  if constexpr (kSaves<Offset>) store_bytes<T>(offsets, winner);
}

// Whether y's blocks go past the caches: where x and y are more than they hold, y would be gone
// from them anyway before anybody reads it, and writing to memory needs no reading first.
template <class T>
INLINE bool streams(const MaxPool2d& p) {
  constexpr int64_t kCached = 48 << 20, kLine = TORCHEXT_VECTOR_BYTES;
  const int64_t bytes = p.N * p.C * (p.H * p.W + p.OH * p.OW) * static_cast<int64_t>(sizeof(T));
  return bytes > kCached && reinterpret_cast<uintptr_t>(p.y) % kLine == 0 &&
         p.C * static_cast<int64_t>(sizeof(T)) % kLine == 0;
}

// The uncut outputs of a row, for the windows that models use.
template <int KH, int KW, class T, class Offset>
static void pool_pixels(const MaxPool2d& p, const Run<T, Offset>& first, int64_t outputs,
                        int64_t channels) {
  const int64_t row = p.h.dilation * p.x_stride.h, column = p.w.dilation * p.x_stride.w;
  Run<T, Offset> run = first;
  run.x += run.at;
  run.at = 0;
  const bool stream = streams<T>(p);
  for (int64_t ow = 0; ow < outputs; ++ow) {
    int64_t c = 0;
    for (; c + kBlockLanes<T> <= channels; c += kBlockLanes<T>) {
      pool_block<KH, KW>(run.x + c, row, column, run.y + c, run.offsets + c, stream);
    }
    if (c < channels) {
      Run<T, Offset> rest = run;
      rest.x += c;
      rest.y += c;
      if constexpr (kSaves<Offset>) rest.offsets += c;
      pool_run<1>(p, rest, channels - c);
    }
    run.x += p.w.stride * p.x_stride.w;
    run.y += p.y_stride.w;
    if constexpr (kSaves<Offset>) run.offsets += p.y_stride.w;
  }
  if (stream) fence();
}

template <class T, class Offset>
static void pool_channels_last(const MaxPool2d& p, int64_t begin, int64_t end) {
  const Range uncut = uncut_outputs(p);
  for (int64_t index = begin; index < end; ++index) {
    const Piece piece = channels_last_piece(index, p.N, p.OH, p.C);
    const int64_t channels = piece.c_end - piece.c_begin;
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      Run<T, Offset> run = run_at<T, Offset>(p, piece.n, piece.c_begin, piece.row, ow);
      run.step = p.x_stride.c;
      if constexpr (!kWide<Offset>) {
        const bool whole = run.rows.end - run.rows.begin == p.h.kernel && run.step == 1;
        const auto pixels = p.w.kernel != p.h.kernel ? nullptr
                            : p.h.kernel == 3        ? &pool_pixels<3, 3, T, Offset>
                            : p.h.kernel == 2        ? &pool_pixels<2, 2, T, Offset>
                                                     : nullptr;
        if (whole && pixels && ow == uncut.begin && uncut.begin < uncut.end) {
          pixels(p, run, uncut.end - uncut.begin, channels);
          ow = uncut.end - 1;
          continue;
        }
      }
      if (run.step == 1) {
        pool_run<1>(p, run, channels);
      } else {
        pool_run<0>(p, run, channels);
      }
    }
  }
}

template <class T, class Offset>
static void pool_rows(const MaxPool2d& p, int64_t begin, int64_t end) {
  const Range uncut = uncut_outputs(p);
  for (int64_t index = begin; index < end; ++index) {
    const int64_t oh = index % p.OH, c = index / p.OH % p.C, n = index / p.OH / p.C;
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      Run<T, Offset> run = run_at<T, Offset>(p, n, c, oh, ow);
      if (ow != uncut.begin || uncut.begin == uncut.end) {
        pool_vectors<1, 1, 1>(p, run, 0);
        continue;
      }
      run.step = p.w.stride * p.x_stride.w;
      if (run.step == 1) {
        pool_run<1>(p, run, uncut.end - uncut.begin);
      } else if (run.step == 2) {
        pool_run<2>(p, run, uncut.end - uncut.begin);
      } else {
        pool_run<0>(p, run, uncut.end - uncut.begin);
      }
      ow = uncut.end - 1;
    }
  }
}

template <class T, class Offset>
INLINE void pool(const MaxPool2d& p, int64_t begin, int64_t end) {
  if (lanes_along_channels(p.y_stride)) {
    pool_channels_last<T, Offset>(p, begin, end);
  } else {
    pool_rows<T, Offset>(p, begin, end);
  }
}

template <class T>
INLINE void pool_saving(const MaxPool2d& p, int64_t begin, int64_t end) {
  if (p.offsets == nullptr) {
    pool<T, NoOffset>(p, begin, end);
  } else if (p.wide_offsets) {
    pool<T, int32_t>(p, begin, end);
  } else {
    pool<T, uint8_t>(p, begin, end);
  }
}

// An input, and the outputs whose windows span it.
struct Place {
  int64_t n, h, w;
  Range rows, columns;
};

INLINE int64_t tap_over(const Window& window, int64_t i, int64_t o) {
  return window.dilation == 1 ? i + window.padding - o * window.stride : tap_at(window, i, o);
}

// add(element of grad_y, element of offsets, tap) for each output that may have chosen a channel c
// of the input.
template <class Add>
INLINE void for_each_tap(const MaxPool2dBackward& p, const Place& at, int64_t c, Add add) {
  const Strides &gs = p.grad_y_stride, &os = p.offset_stride;
  for (int64_t oh = at.rows.begin; oh < at.rows.end; ++oh) {
    const int64_t i = tap_over(p.h, at.h, oh);
    if (i < 0) continue;
    for (int64_t ow = at.columns.begin; ow < at.columns.end; ++ow) {
      const int64_t j = tap_over(p.w, at.w, ow);
      if (j < 0) continue;
      add(at.n * gs.n + c * gs.c + oh * gs.h + ow * gs.w,
          at.n * os.n + c * os.c + oh * os.h + ow * os.w, i * p.w.kernel + j);
    }
  }
}

template <class T>
INLINE T* gathered(const MaxPool2dBackward& p, const Place& at, int64_t c) {
  const Strides& xs = p.grad_x_stride;
  return static_cast<T*>(p.grad_x) + (at.n * xs.n + c * xs.c + at.h * xs.h + at.w * xs.w);
}

// N channels of an input's gradient: the sum over the outputs that chose it.
template <int N, class T, class Offset>
INLINE void gather_lanes(const MaxPool2dBackward& p, const Place& at, int64_t c) {
  using V = Vec<Compute<T>, N>;
  using I = Vec<Integer<T>, N>;
  V sum{};
  for_each_tap(p, at, c, [&](int64_t grad, int64_t offset, int64_t tap) {
    const V g = load<N>(static_cast<const T*>(p.grad_y) + grad);
    const I winner = load_integers<Integer<T>, N>(static_cast<const Offset*>(p.offsets) + offset);
    sum += winner == I{} + static_cast<Integer<T>>(tap) ? g : V{};
  });
  store<N>(gathered<T>(p, at, c), sum);
}

template <class T>
INLINE void gather_block(const MaxPool2dBackward& p, const Place& at, int64_t c) {
  Block<T> sum = {}, g;
  IntegerBlock<T> winner;
  for_each_tap(p, at, c, [&](int64_t grad, int64_t offset, int64_t tap) {
    load_block(static_cast<const T*>(p.grad_y) + grad, g);
    load_bytes<T>(static_cast<const uint8_t*>(p.offsets) + offset, winner);
    for (int u = 0; u < kBlockVectors; ++u) {
      sum[u] += winner[u] == static_cast<Integer<T>>(tap) ? g[u] : decltype(g[u] + 0){};
    }
  });
  store_block(gathered<T>(p, at, c), sum);
}

template <int N, class T, class Offset>
INLINE void gather_channels(const MaxPool2dBackward& p, const Place& at, int64_t c, int64_t end) {
  if constexpr (N == kLanes<T> && N > 1) {
    for (; c + kBlockLanes<T> <= end; c += kBlockLanes<T>) gather_block<T>(p, at, c);
  }
  for (; c + N <= end; c += N) gather_lanes<N, T, Offset>(p, at, c);
  if constexpr (N > 1) gather_channels<N / 2, T, Offset>(p, at, c, end);
}

template <class T, class Offset>
static void gather_channels_last(const MaxPool2dBackward& p, int64_t begin, int64_t end) {
  const bool unit = p.grad_y_stride.c == 1 && p.offset_stride.c == 1;
  for (int64_t index = begin; index < end; ++index) {
    const Piece piece = channels_last_piece(index, p.N, p.H, p.C);
    Place at{piece.n, piece.row, 0, outputs_over(p.h, piece.row, p.OH), {0, 0}};
    for (; at.w < p.W; ++at.w) {
      at.columns = next_outputs_over(p.w, at.w, p.OW, at.columns);
      if (unit && !kWide<Offset>) {
        gather_channels<kLanes<T>, T, Offset>(p, at, piece.c_begin, piece.c_end);
      } else {
        gather_channels<1, T, Offset>(p, at, piece.c_begin, piece.c_end);
      }
    }
  }
}

// One plane of NCHW: every output adds its gradient to the input it chose, in float.
template <class T, class Offset>
INLINE void scatter_plane(const MaxPool2dBackward& p, int64_t n, int64_t c, Compute<T>* plane) {
  const Strides &gs = p.grad_y_stride, &os = p.offset_stride;
  const T* grad = static_cast<const T*>(p.grad_y) + (n * gs.n + c * gs.c);
  const Offset* offsets = static_cast<const Offset*>(p.offsets) + (n * os.n + c * os.c);
  const int64_t taps = p.h.kernel * p.w.kernel;
  for (int64_t k = 0; k < p.H * p.W; ++k) plane[k] = 0;
  for (int64_t oh = 0; oh < p.OH; ++oh) {
    const int64_t top = oh * p.h.stride - p.h.padding;
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      const int64_t tap = offsets[oh * os.h + ow * os.w];
      const int64_t h = top + tap / p.w.kernel * p.h.dilation;
      const int64_t w = ow * p.w.stride - p.w.padding + tap % p.w.kernel * p.w.dilation;
      // Offsets come from outside: what is no tap, or lies in the padding, is nobody's.
      if (tap < 0 || tap >= taps || h < 0 || h >= p.H || w < 0 || w >= p.W) continue;
      plane[h * p.W + w] += load<1>(grad + (oh * gs.h + ow * gs.w))[0];
    }
  }
}

template <class T, class Offset>
static void scatter_planes(const MaxPool2dBackward& p, int64_t begin, int64_t end) {
  const int64_t size = p.H * p.W;
  float* scratch = nullptr;  // 16-bit gradients are summed in float
  if constexpr (sizeof(T) == 2) {
    scratch = static_cast<float*>(__builtin_malloc(size * sizeof(float)));
  }
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / p.C, c = index % p.C;
    T* grad_x = static_cast<T*>(p.grad_x) + index * size;
    if constexpr (sizeof(T) != 2) {
      scatter_plane<T, Offset>(p, n, c, grad_x);
    } else if (scratch != nullptr) {
      scatter_plane<T, Offset>(p, n, c, scratch);
      narrow_plane(scratch, grad_x, size);
    } else {  // no memory: slower, the same sums
      for (int64_t h = 0; h < p.H; ++h) {
        for (int64_t w = 0; w < p.W; ++w) {
          const Place at{n, h, w, outputs_over(p.h, h, p.OH), outputs_over(p.w, w, p.OW)};
          gather_lanes<1, T, Offset>(p, at, c);
        }
      }
    }
  }
  __builtin_free(scratch);
}

template <class T, class Offset>
INLINE void pool_backward(const MaxPool2dBackward& p, int64_t begin, int64_t end) {
  if (lanes_along_channels(p.grad_x_stride)) {
    gather_channels_last<T, Offset>(p, begin, end);
  } else {
    scatter_planes<T, Offset>(p, begin, end);
  }
}

template <class T>
INLINE void pool_backward_from(const MaxPool2dBackward& p, int64_t begin, int64_t end) {
  if (p.wide_offsets) {
    pool_backward<T, int32_t>(p, begin, end);
  } else {
    pool_backward<T, uint8_t>(p, begin, end);
  }
}

template <class Offset>
INLINE void indices_from(const MaxPool2dIndices& p, int64_t begin, int64_t end) {
  const Strides &os = p.offset_stride, &is = p.index_stride;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t oh = index % p.OH, c = index / p.OH % p.C, n = index / p.OH / p.C;
    const Offset* offsets =
        static_cast<const Offset*>(p.offsets) + (n * os.n + c * os.c + oh * os.h);
    int64_t* indices = p.indices + (n * is.n + c * is.c + oh * is.h);
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      const int64_t tap = offsets[ow * os.w];
      const int64_t h = oh * p.h.stride - p.h.padding + tap / p.w.kernel * p.h.dilation;
      const int64_t w = ow * p.w.stride - p.w.padding + tap % p.w.kernel * p.w.dilation;
      // A window wholly inside the padding has no index: the nearest input's is a harmless one.
      indices[ow * is.w] = min_of(max_of(h, 0), p.H - 1) * p.W + min_of(max_of(w, 0), p.W - 1);
    }
  }
}

}  // namespace

void run(const MaxPool2d& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(pool_saving, p, begin, end)
}

void run(const MaxPool2dBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(pool_backward_from, p, begin, end)
}

void run(const MaxPool2dIndices& p, int64_t begin, int64_t end) {
  if (p.wide_offsets) {
    indices_from<int32_t>(p, begin, end);
  } else {
    indices_from<uint8_t>(p, begin, end);
  }
}

}  // namespace torchext::cpu::TORCHEXT_ISA
