// avg_pool2d and adaptive_avg_pool2d on the CPU, compiled once per ISA. In channels_last lanes run
// along C; in NCHW along a row of outputs, or, where windows are wide (global average), along the
// window itself. Backward: channels_last gathers per input, NCHW scatters plane by plane, both in
// ascending order of outputs.
#include "../op/avg_pool2d.h"

#include "pool2d.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class P>
INLINE Span rows_of(const P& p, int64_t oh) {
  return averaged(p.h, p.adaptive, p.count_include_pad, oh, p.H, p.OH);
}
template <class P>
INLINE Span columns_of(const P& p, int64_t ow) {
  return averaged(p.w, p.adaptive, p.count_include_pad, ow, p.W, p.OW);
}

// A run of outputs adjacent in y: windows of the same spans, each `step` elements after the last.
template <class T>
struct Run {
  const T* x;  // the window's first input, for the first output
  int64_t step;
  int64_t rows, columns;
  Compute<T> divisor;
  T* y;
};

template <int N, int U, int Step, class T>
INLINE void average_vectors(const AvgPool2d& p, const Run<T>& run, int64_t k) {
  using V = Vec<Compute<T>, N>;
  V sum[U];
  for (int u = 0; u < U; ++u) sum[u] = V{};
  for (int64_t i = 0; i < run.rows; ++i) {
    V of_row[U];  // summed by rows first: large windows keep their precision
    for (int u = 0; u < U; ++u) of_row[u] = V{};
    for (int64_t j = 0; j < run.columns; ++j) {
      const T* x = run.x + (i * p.x_stride.h + j * p.x_stride.w + k * run.step);
      for (int u = 0; u < U; ++u) of_row[u] += load_lanes<N, Step>(x + u * N * run.step);
    }
    for (int u = 0; u < U; ++u) sum[u] += of_row[u];
  }
  for (int u = 0; u < U; ++u) store<N>(run.y + k + u * N, sum[u] / run.divisor);
}

template <int N, int Step, class T>
INLINE void average_rest(const AvgPool2d& p, const Run<T>& run, int64_t k, int64_t count) {
  if (k + N <= count) {
    average_vectors<N, 1, Step>(p, run, k);
    k += N;
  }
  if constexpr (N > 1) average_rest<N / 2, Step>(p, run, k, count);
}

template <int Step, class T>
INLINE void average_run(const AvgPool2d& p, const Run<T>& run, int64_t count) {
  constexpr int N = Step == 0 ? 1 : kLanes<T>;  // odd strides are rare: one by one
  int64_t k = 0;
  for (; k + 4 * N <= count; k += 4 * N) average_vectors<N, 4, Step>(p, run, k);
  for (; k + N <= count; k += N) average_vectors<N, 1, Step>(p, run, k);
  if constexpr (N > 1) average_rest<N / 2, Step>(p, run, k, count);
}

// One output whose window's rows are contiguous: lanes along the rows, then across the lanes.
template <class T>
INLINE void average_window(const AvgPool2d& p, const Run<T>& run) {
  constexpr int N = kLanes<T>;
  using V = Vec<Compute<T>, N>;
  int64_t rows = run.rows, columns = run.columns;
  if (columns == p.x_stride.h) {  // rows follow each other: one long row
    columns *= rows;
    rows = 1;
  }
  V lanes[4] = {};
  Compute<T> sum = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const T* x = run.x + i * p.x_stride.h;
    int64_t j = 0;
    for (; j + 4 * N <= columns; j += 4 * N) {
      for (int u = 0; u < 4; ++u) lanes[u] += load<N>(x + j + u * N);
    }
    for (; j + N <= columns; j += N) lanes[0] += load<N>(x + j);
    for (; j < columns; ++j) sum += load<1>(x + j)[0];
  }
  const V all = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  for (int k = 0; k < N; ++k) sum += all[k];
  store<1>(run.y, Vec<Compute<T>, 1>{} + sum / run.divisor);
}

template <class T>
INLINE Run<T> run_at(const AvgPool2d& p, int64_t n, int64_t c, int64_t oh, int64_t ow) {
  const Strides &xs = p.x_stride, &ys = p.y_stride;
  const Span rows = rows_of(p, oh), columns = columns_of(p, ow);
  Run<T> run;
  run.x =
      static_cast<const T*>(p.x) + (n * xs.n + c * xs.c + rows.begin * xs.h + columns.begin * xs.w);
  run.step = 1;
  run.rows = rows.end - rows.begin;
  run.columns = columns.end - columns.begin;
  run.divisor = static_cast<Compute<T>>(divisor_of(p, rows, columns));
  run.y = static_cast<T*>(p.y) + (n * ys.n + c * ys.c + oh * ys.h + ow * ys.w);
  return run;
}

template <class T>
static void average_channels_last(const AvgPool2d& p, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const Piece piece = channels_last_piece(index, p.N, p.OH, p.C);
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      Run<T> run = run_at<T>(p, piece.n, piece.c_begin, piece.row, ow);
      run.step = p.x_stride.c;
      if (run.step == 1) {
        average_run<1>(p, run, piece.c_end - piece.c_begin);
      } else {
        average_run<0>(p, run, piece.c_end - piece.c_begin);
      }
    }
  }
}

template <class T>
static void average_rows(const AvgPool2d& p, int64_t begin, int64_t end) {
  // Sliding windows that are not cut on the left or right have the same columns.
  const int64_t reach = p.W + p.w.padding - p.w.kernel;  // where the last such window starts
  const int64_t inner_begin = p.adaptive ? p.OW : min_of(p.OW, ceil_div(p.w.padding, p.w.stride));
  const int64_t inner_end = p.adaptive || reach < 0
                                ? inner_begin
                                : max_of(inner_begin, min_of(p.OW, reach / p.w.stride + 1));
  for (int64_t index = begin; index < end; ++index) {
    const int64_t oh = index % p.OH, c = index / p.OH % p.C, n = index / p.OH / p.C;
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      Run<T> run = run_at<T>(p, n, c, oh, ow);
      const bool contiguous_rows = p.x_stride.w == 1 && run.columns * run.rows >= 2 * kLanes<T>;
      if (ow != inner_begin || inner_begin == inner_end) {
        if (contiguous_rows) {
          average_window(p, run);
        } else {
          average_vectors<1, 1, 1>(p, run, 0);
        }
        continue;
      }
      run.step = p.w.stride * p.x_stride.w;
      if (run.step == 1) {
        average_run<1>(p, run, inner_end - inner_begin);
      } else if (run.step == 2) {
        average_run<2>(p, run, inner_end - inner_begin);
      } else {
        average_run<0>(p, run, inner_end - inner_begin);
      }
      ow = inner_end - 1;
    }
  }
}

template <class T>
INLINE void average(const AvgPool2d& p, int64_t begin, int64_t end) {
  if (lanes_along_channels(p.y_stride)) {
    average_channels_last<T>(p, begin, end);
  } else {
    average_rows<T>(p, begin, end);
  }
}

// The outputs along an axis whose averages include input i.
INLINE Range covering(const Window& window, bool adaptive, int64_t i, int64_t size,
                      int64_t outputs) {
  return adaptive ? adaptive_outputs_over(i, size, outputs) : outputs_over(window, i, outputs);
}

// add(element of grad_y, divisor) for each of the outputs.
template <class Add>
INLINE void for_each_share(const AvgPool2dBackward& p, Range rows, Range columns, Add add) {
  for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
    const Span height = rows_of(p, oh);
    for (int64_t ow = columns.begin; ow < columns.end; ++ow) {
      add(oh * p.grad_y_stride.h + ow * p.grad_y_stride.w,
          divisor_of(p, height, columns_of(p, ow)));
    }
  }
}

template <int N, class T>
INLINE void spread_lanes(const AvgPool2dBackward& p, const T* grad_y, T* grad_x, Range rows,
                         Range columns) {
  Vec<Compute<T>, N> sum{};
  for_each_share(p, rows, columns, [&](int64_t at, int64_t divisor) {
    sum += load<N>(grad_y + at) / static_cast<Compute<T>>(divisor);
  });
  store<N>(grad_x, sum);
}

template <class T>
INLINE void spread_block(const AvgPool2dBackward& p, const T* grad_y, T* grad_x, Range rows,
                         Range columns) {
  Block<T> sum = {}, g;
  for_each_share(p, rows, columns, [&](int64_t at, int64_t divisor) {
    load_block(grad_y + at, g);
    for (int u = 0; u < kBlockVectors; ++u) sum[u] += g[u] / static_cast<Compute<T>>(divisor);
  });
  store_block(grad_x, sum);
}

template <int N, class T>
INLINE void spread_channels(const AvgPool2dBackward& p, const T* grad_y, T* grad_x, int64_t count,
                            Range rows, Range columns) {
  int64_t k = 0;
  if constexpr (N == kLanes<T> && N > 1) {
    for (; k + kBlockLanes<T> <= count; k += kBlockLanes<T>) {
      spread_block(p, grad_y + k, grad_x + k, rows, columns);
    }
  }
  for (; k + N <= count; k += N) {
    spread_lanes<N>(p, grad_y + k * p.grad_y_stride.c, grad_x + k, rows, columns);
  }
  if constexpr (N > 1) {
    spread_channels<N / 2>(p, grad_y + k * p.grad_y_stride.c, grad_x + k, count - k, rows, columns);
  }
}

template <class T>
static void spread_channels_last(const AvgPool2dBackward& p, int64_t begin, int64_t end) {
  const Strides &gs = p.grad_y_stride, &xs = p.grad_x_stride;
  for (int64_t index = begin; index < end; ++index) {
    const Piece piece = channels_last_piece(index, p.N, p.H, p.C);
    const int64_t count = piece.c_end - piece.c_begin;
    const T* grad_y = static_cast<const T*>(p.grad_y) + (piece.n * gs.n + piece.c_begin * gs.c);
    T* grad_x = static_cast<T*>(p.grad_x) + (piece.n * xs.n + piece.c_begin + piece.row * xs.h);
    const Range rows = covering(p.h, p.adaptive, piece.row, p.H, p.OH);
    Range columns = {0, 0}, before;
    for (int64_t w = 0; w < p.W; ++w, grad_x += xs.w) {
      before = columns;
      columns = p.adaptive ? adaptive_outputs_over(w, p.W, p.OW)
                           : next_outputs_over(p.w, w, p.OW, columns);
      if (w > 0 && columns.begin == before.begin && columns.end == before.end) {
        __builtin_memcpy(grad_x, grad_x - xs.w, count * sizeof(T));  // the same shares
      } else if (gs.c == 1) {
        spread_channels<kLanes<T>>(p, grad_y, grad_x, count, rows, columns);
      } else {
        spread_channels<1>(p, grad_y, grad_x, count, rows, columns);
      }
    }
  }
}

// One plane of NCHW: every output adds its share to the inputs it averaged, in float.
template <class T>
INLINE void spread_plane(const AvgPool2dBackward& p, const T* grad_y, Compute<T>* plane) {
  for (int64_t k = 0; k < p.H * p.W; ++k) plane[k] = 0;
  for (int64_t oh = 0; oh < p.OH; ++oh) {
    const Span rows = rows_of(p, oh);
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      const Span columns = columns_of(p, ow);
      const T* grad = grad_y + (oh * p.grad_y_stride.h + ow * p.grad_y_stride.w);
      const auto divisor = static_cast<Compute<T>>(divisor_of(p, rows, columns));
      const Compute<T> share = load<1>(grad)[0] / divisor;
      for (int64_t h = rows.begin; h < rows.end; ++h) {
        for (int64_t w = columns.begin; w < columns.end; ++w) plane[h * p.W + w] += share;
      }
    }
  }
}

template <class T>
static void spread_planes(const AvgPool2dBackward& p, int64_t begin, int64_t end) {
  const int64_t size = p.H * p.W;
  float* scratch = nullptr;  // 16-bit gradients are summed in float
  if constexpr (sizeof(T) == 2) {
    scratch = static_cast<float*>(__builtin_malloc(size * sizeof(float)));
  }
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / p.C, c = index % p.C;
    const T* grad_y =
        static_cast<const T*>(p.grad_y) + (n * p.grad_y_stride.n + c * p.grad_y_stride.c);
    T* grad_x = static_cast<T*>(p.grad_x) + index * size;
    if constexpr (sizeof(T) != 2) {
      spread_plane(p, grad_y, grad_x);
    } else if (scratch != nullptr) {
      spread_plane(p, grad_y, scratch);
      narrow_plane(scratch, grad_x, size);
    } else {  // no memory: slower, the same sums
      for (int64_t k = 0; k < size; ++k) {
        spread_lanes<1>(p, grad_y, grad_x + k, covering(p.h, p.adaptive, k / p.W, p.H, p.OH),
                        covering(p.w, p.adaptive, k % p.W, p.W, p.OW));
      }
    }
  }
  __builtin_free(scratch);
}

template <class T>
INLINE void spread(const AvgPool2dBackward& p, int64_t begin, int64_t end) {
  if (lanes_along_channels(p.grad_x_stride)) {
    spread_channels_last<T>(p, begin, end);
  } else {
    spread_planes<T>(p, begin, end);
  }
}

}  // namespace

void run(const AvgPool2d& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(average, p, begin, end) }

void run(const AvgPool2dBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(spread, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
