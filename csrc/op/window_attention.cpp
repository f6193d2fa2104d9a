// window_attention: checks, allocation and registration, compiled into each backend's library.
#include "window_attention.h"

#include <cmath>

#include "attention_shape.h"
#include "pool2d_shape.h"

namespace torchext {
namespace {

struct Windowed {
  AttentionShape attention;
  WindowShape shape;
  Dims y_sizes, rows;  // of y and of logsumexp
  Tensor qkv, index;   // kept alive: perhaps copies
};

// Pixels one after another, which windows need; a copy where there is no such view.
Tensor by_pixels(const Tensor& x) {
  const Dims sizes = sizes_of(x), strides = strides_of(x);
  const bool one_line = sizes[1] == 1 || sizes[2] == 1;
  return one_line || strides[1] == sizes[2] * strides[2] ? x : torch::stable::contiguous(x);
}

// Matrices (batch, windows, heads, 1) of an image's channels.
Matrices image_matrices(const Tensor& image, int64_t D) {
  const Dims s = strides_of(image);
  const int64_t pixel = sizes_of(image)[2] == 1 ? s[1] : s[2];  // a size of 1 may have any stride
  return {{s[0], 0, D * s[3], 0}, pixel, s[3]};
}

// Channels from `c` on.
template <class Void>
Void* channels(const Tensor& image, int64_t c) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return static_cast<Byte*>(memory_of(image)) + c * strides_of(image)[3] * image.element_size();
}

Windowed checked(const char* op, const Tensor& qkv, const Tensor& table, const Tensor& index,
                 const IntList& window_size, const IntList& shift_size,
                 std::optional<double> scale) {
  check_tensor(op, "qkv", qkv);
  check_like_query(op, "table", table, qkv);
  check_tensor(op, "index", index);
  const Dims sizes = sizes_of(qkv), table_sizes = sizes_of(table);
  CHECK(qkv.dim() == 4, op, ": qkv: got ", qkv.dim(), " dimensions, expected 4 (B, H, W, 3 * C)");
  CHECK(table.dim() == 2 && table_sizes[1] > 0, op, ": table: got shape ", table_sizes,
        ", expected [entries, heads]");
  const int64_t heads = table_sizes[1];
  CHECK(sizes[3] > 0 && sizes[3] % 3 == 0 && sizes[3] / 3 % heads == 0, op, ": qkv: got ", sizes[3],
        " channels, expected 3 * heads * a multiple, of heads ", heads);
  const Pair window = pair_of(op, "window_size", window_size, 1);
  const Pair shift = pair_of(op, "shift_size", shift_size, 0);
  CHECK(shift.first < window.first && shift.second < window.second, op, ": shift_size: got [",
        shift.first, ", ", shift.second, "], expected less than the window");
  CHECK(sizes[1] % window.first == 0 && sizes[2] % window.second == 0, op,
        ": qkv: got an image of ", sizes[1], " x ", sizes[2], ", expected whole windows of ",
        window.first, " x ", window.second);
  const int64_t N = mul(op, "window_size", window.first, window.second);
  CHECK(index.scalar_type() == ScalarType::Long, op, ": index: got dtype ",
        torch::headeronly::toString(index.scalar_type()), ", expected Long");
  CHECK(index.numel() == mul(op, "window_size", N, N), op, ": index: got ", index.numel(),
        " elements, expected ", N, " * ", N);
  Windowed w{};
  w.qkv = by_pixels(qkv);
  w.index = torch::stable::contiguous(index);
  w.shape = {sizes[1],
             sizes[2],
             window.first,
             window.second,
             shift.first,
             shift.second,
             table_sizes[0],
             memory_of(table),
             strides_of(table)[0],
             strides_of(table)[1],
             memory_of(w.index)};
  AttentionShape& p = w.attention;
  const int64_t C = sizes[3] / 3;
  p.dtype = floating_dtype(op, "qkv", qkv);
  p.windows = sizes[1] / window.first * (sizes[2] / window.second);
  p.heads = heads;
  p.leads = 4;
  p.lead[0] = sizes[0], p.lead[1] = p.windows, p.lead[2] = heads, p.lead[3] = 1;
  p.matrices = mul(op, "qkv", sizes[0], mul(op, "qkv", p.windows, heads));
  p.Lq = p.Lk = N;
  p.D = p.Dv = C / heads;
  p.scale = scale.value_or(1 / std::sqrt(static_cast<double>(p.D)));
  p.q = channels<const void>(w.qkv, 0);
  p.k = channels<const void>(w.qkv, C);
  p.v = channels<const void>(w.qkv, 2 * C);
  p.q_stride = p.k_stride = p.v_stride = image_matrices(w.qkv, p.D);
  w.y_sizes = sizes;
  w.y_sizes[3] = C;
  const int64_t rows[] = {sizes[0], p.windows, heads, N};
  w.rows = Dims(rows, 4);
  return w;
}

Tensor empty_y(const char* op, const Tensor& qkv, const Windowed& w) {
  return empty_dense(op, qkv, w.y_sizes, false, qkv.scalar_type());
}

void launch_forward(const Windowed& w, const Tensor& y, void* logsumexp) {
  WindowAttention p{};
  static_cast<AttentionShape&>(p.attention) = w.attention;
  p.attention.y = memory_of(y);
  p.attention.y_stride = image_matrices(y, w.attention.D);
  p.attention.logsumexp = logsumexp;
  p.shape = w.shape;
  if (y.numel() > 0) launch(p, Context(w.qkv).queue);
}

std::tuple<Tensor, Tensor> window_attention(const Tensor& qkv, const Tensor& table,
                                            const Tensor& index, const IntList& window_size,
                                            const IntList& shift_size,
                                            std::optional<double> scale) {
  const char* op = "window_attention";
  const Windowed w = checked(op, qkv, table, index, window_size, shift_size, scale);
  Tensor y = empty_y(op, qkv, w);
  Tensor logsumexp = empty_dense(op, qkv, w.rows, false, compute_type(qkv));
  launch_forward(w, y, memory_of(logsumexp));
  return {y, logsumexp};
}

Tensor window_attention_inference(const Tensor& qkv, const Tensor& table, const Tensor& index,
                                  const IntList& window_size, const IntList& shift_size,
                                  std::optional<double> scale) {
  const char* op = "window_attention";
  const Windowed w = checked(op, qkv, table, index, window_size, shift_size, scale);
  Tensor y = empty_y(op, qkv, w);
  launch_forward(w, y, nullptr);
  return y;
}

std::tuple<Tensor, Tensor> window_attention_backward(
    const Tensor& grad_y, const Tensor& grad_logsumexp, const Tensor& qkv, const Tensor& table,
    const Tensor& index, const Tensor& y, const Tensor& logsumexp, const IntList& window_size,
    const IntList& shift_size, std::optional<double> scale) {
  const char* op = "window_attention_backward";
  const Windowed w = checked(op, qkv, table, index, window_size, shift_size, scale);
  WindowAttentionBackward p{};
  AttentionBackward& a = p.attention;
  static_cast<AttentionShape&>(a) = w.attention;
  p.shape = w.shape;
  check_like_query(op, "grad_y", grad_y, qkv);
  check_sizes(op, "grad_y", sizes_of(grad_y), w.y_sizes);
  check_like_query(op, "y", y, qkv);
  check_sizes(op, "y", sizes_of(y), w.y_sizes);
  Tensor dense_logsumexp, dense_grad;
  a.logsumexp = rows_pointer(op, "logsumexp", logsumexp, qkv, w.rows, dense_logsumexp);
  a.grad_logsumexp = rows_pointer(op, "grad_logsumexp", grad_logsumexp, qkv, w.rows, dense_grad);
  const Tensor grad_pixels = by_pixels(grad_y), y_pixels = by_pixels(y);
  a.grad_y = memory_of(grad_pixels), a.y = memory_of(y_pixels);
  a.grad_y_stride = image_matrices(grad_pixels, a.D), a.y_stride = image_matrices(y_pixels, a.D);
  Tensor grad_qkv = empty_dense(op, qkv, sizes_of(qkv), false, qkv.scalar_type());
  const int64_t C = w.y_sizes[3];
  a.grad_q = channels<void>(grad_qkv, 0), a.grad_k = channels<void>(grad_qkv, C);
  a.grad_v = channels<void>(grad_qkv, 2 * C);
  a.grad_q_stride = a.grad_k_stride = a.grad_v_stride = image_matrices(grad_qkv, a.D);
  Tensor grad_table = empty_dense(op, table, sizes_of(table), false, table.scalar_type());
  p.grad_table = memory_of(grad_table);
  if (a.matrices > 0) {
    launch(p, Context(qkv).queue);
  } else {
    fill(grad_table, 0);  // of an empty batch
  }
  return {grad_qkv, grad_table};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("window_attention", KERNEL(&window_attention));
  library.impl("window_attention_inference", KERNEL(&window_attention_inference));
  library.impl("window_attention_backward", KERNEL(&window_attention_backward));
}

}  // namespace torchext
