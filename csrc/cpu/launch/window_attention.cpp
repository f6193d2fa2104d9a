// Window attention on the CPU: attention, told where each window's rows lie.
#include "../../op/window_attention.h"

#include <vector>

#include "../window_bias.h"
#include "scratch.h"

namespace torchext {

void launch(const cpu::WindowBias& p, const Queue&);
void launch(const cpu::WindowBiasGradient& p, const Queue&);

namespace {

// What attention lacks: lives as long as its launch.
class Windows {
 public:
  Windows(const char* op, AttentionShape& p, const WindowShape& s)
      : bias_(p.dtype, p.heads, p.Lq, p.Lq), rows_(p.windows * p.Lq), regions_(p.windows * p.Lq) {
    for (int64_t k = 0; k < p.Lq * p.Lq; ++k) {
      CHECK(s.index[k] >= 0 && s.index[k] < s.entries, op, ": index: got ", s.index[k],
            ", expected one of the table's ", s.entries, " rows");
    }
    // A pixel's place in the rolled image, and its region: rolled in from the other side or not.
    for (int64_t h = 0; h < s.H; ++h) {
      for (int64_t w = 0; w < s.W; ++w) {
        const int64_t window = h / s.window_h * (s.W / s.window_w) + w / s.window_w;
        const int64_t at = window * p.Lq + h % s.window_h * s.window_w + w % s.window_w;
        rows_[at] = (h + s.shift_h) % s.H * s.W + (w + s.shift_w) % s.W;
        regions_[at] = 2 * (h >= s.H - s.shift_h) + (w >= s.W - s.shift_w);
      }
    }
    launch(cpu::WindowBias{p.dtype, p.heads, p.Lq * p.Lq, s.table, s.table_row, s.table_head,
                           s.index, bias_.get()},
           Queue{});
    p.mask_kind = p.dtype == DType::f64 ? Mask::as_query : Mask::f32;
    p.mask = bias_.get();
    p.mask_stride = bias_strides(p);
    p.window_rows = rows_.data();
    p.regions = s.shift_h + s.shift_w > 0 ? regions_.data() : nullptr;
  }

  // Of [heads][N][N]; leads are (batch, windows, heads, 1).
  static Matrices bias_strides(const AttentionShape& p) {
    return {{0, 0, p.Lq * p.Lq, 0}, p.Lq, 1};
  }

 private:
  cpu::Scratch bias_;
  std::vector<int64_t> rows_;
  std::vector<int32_t> regions_;
};

}  // namespace

void launch(const WindowAttention& p, const Queue&) {
  Attention attention = p.attention;
  const Windows windows("window_attention", attention, p.shape);
  launch(attention, Queue{});
}

void launch(const WindowAttentionBackward& p, const Queue&) {
  AttentionBackward attention = p.attention;
  const Windows windows("window_attention_backward", attention, p.shape);
  const int64_t pairs = attention.Lq * attention.Lq;
  const cpu::Scratch grad_bias(attention.dtype, attention.heads, pairs);
  const cpu::Scratch sums(attention.dtype, attention.heads, p.shape.entries);
  attention.grad_mask = grad_bias.get();
  attention.grad_mask_stride = Windows::bias_strides(attention);
  launch(attention, Queue{});
  launch(cpu::WindowBiasGradient{attention.dtype, attention.heads, pairs, p.shape.entries,
                                 grad_bias.get(), p.shape.index, sums.get(), p.grad_table},
         Queue{});
}

}  // namespace torchext
