// Window attention: attention, told where each window's rows lie, with the bias of pairs of pixels.
#include "../op/window_attention.h"
#include "pointwise.cuh"
#include "tile/queue.cuh"
#include "tile/reduce.cuh"

namespace torchext {
namespace {

// A pixel's place in the rolled image, and its region: rolled in from the other side or not.
struct Places {
  WindowShape shape;
  int64_t N;
  int64_t* rows;
  int32_t* regions;
};

__global__ void __launch_bounds__(kPointwiseThreads) places_kernel(const Places p) {
  const WindowShape& s = p.shape;
  const int64_t pixel = pointwise_begin<1>();
  if (pixel >= s.H * s.W) return;
  const int64_t h = pixel / s.W, w = pixel % s.W;
  const int64_t window = h / s.window_h * (s.W / s.window_w) + w / s.window_w;
  const int64_t at = window * p.N + h % s.window_h * s.window_w + w % s.window_w;
  p.rows[at] = (h + s.shift_h) % s.H * s.W + (w + s.shift_w) % s.W;
  p.regions[at] = 2 * (h >= s.H - s.shift_h) + (w >= s.W - s.shift_w);
}

template <class T>
struct Bias {
  const T* table;
  int64_t table_row, table_head, entries, heads, pairs;
  const int64_t* index;
  Compute<T>* bias;  // [heads][pairs]
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads) bias_kernel(const Bias<T> p) {
  const int64_t at = pointwise_begin<1>();
  if (at >= p.heads * p.pairs) return;
  const int64_t head = at / p.pairs, row = p.index[at - head * p.pairs];
  const bool inside = row >= 0 && row < p.entries;  // else visibly nothing
  p.bias[at] = inside ? tile::widen(p.table[row * p.table_row + head * p.table_head])
                      : static_cast<Compute<T>>(NAN);
}

// A warp for each number of the table.
template <class T>
struct BiasGradient {
  const Compute<T>* grad_bias;
  const int64_t* index;
  int64_t entries, heads, pairs;
  T* grad_table;  // [entries][heads]
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads) bias_gradient_kernel(const BiasGradient<T> p) {
  const int64_t at = pointwise_begin<1>() / tile::kWarp;
  if (at >= p.entries * p.heads) return;  // whole warps
  const int64_t row = at / p.heads, head = at - row * p.heads;
  Compute<T> sum = 0;
  for (int64_t pair = threadIdx.x % tile::kWarp; pair < p.pairs; pair += tile::kWarp) {
    if (p.index[pair] == row) sum += p.grad_bias[head * p.pairs + pair];
  }
  sum = tile::over_warp<tile::Sum>(sum);
  if (threadIdx.x % tile::kWarp == 0) p.grad_table[at] = tile::narrow<T>(sum);
}

// Of [heads][N][N]; leads are (batch, windows, heads, 1).
Matrices bias_strides(const AttentionShape& p) { return {{0, 0, p.Lq * p.Lq, 0}, p.Lq, 1}; }

template <class T>
void set_windows(const char* op, AttentionShape& p, const WindowShape& s, const Queue& queue) {
  const int64_t pixels = s.H * s.W, pairs = p.Lq * p.Lq;
  const Places places{s, p.Lq, tile::scratch<int64_t>(queue, pixels),
                      tile::scratch<int32_t>(queue, pixels)};
  launch_pointwise(op, places_kernel, places, pixels, 1, queue);
  auto* bias = tile::scratch<Compute<T>>(queue, p.heads * pairs);
  const Bias<T> of_table{static_cast<const T*>(s.table),
                         s.table_row,
                         s.table_head,
                         s.entries,
                         p.heads,
                         pairs,
                         s.index,
                         bias};
  launch_pointwise(op, bias_kernel<T>, of_table, p.heads * pairs, 1, queue);
  p.mask_kind = p.dtype == DType::f64 ? Mask::as_query : Mask::f32;
  p.mask = bias;
  p.mask_stride = bias_strides(p);
  p.window_rows = places.rows;
  p.regions = s.shift_h + s.shift_w > 0 ? places.regions : nullptr;
}

template <class T>
void differentiate(const WindowAttentionBackward& p, const Queue& queue) {
  const char* op = "window_attention_backward";
  AttentionBackward attention = p.attention;
  set_windows<T>(op, attention, p.shape, queue);
  const int64_t pairs = attention.Lq * attention.Lq, heads = attention.heads;
  auto* grad_bias = tile::scratch<Compute<T>>(queue, heads * pairs);
  attention.grad_mask = grad_bias;
  attention.grad_mask_stride = bias_strides(attention);
  launch(attention, queue);
  const BiasGradient<T> gradient{grad_bias, p.shape.index, p.shape.entries,
                                 heads,     pairs,         static_cast<T*>(p.grad_table)};
  launch_pointwise(op, bias_gradient_kernel<T>, gradient, p.shape.entries * heads * tile::kWarp, 1,
                   queue);
}

}  // namespace

void launch(const WindowAttention& p, const Queue& queue) {
  Attention attention = p.attention;
  for_dtype(attention.dtype, [&](auto zero) {
    set_windows<decltype(zero)>("window_attention", attention, p.shape, queue);
  });
  launch(attention, queue);
}

void launch(const WindowAttentionBackward& p, const Queue& queue) {
  for_dtype(p.attention.dtype, [&](auto zero) { differentiate<decltype(zero)>(p, queue); });
}

}  // namespace torchext
