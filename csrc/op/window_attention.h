// window_attention (Swin): attention within windows of an image that is first rolled by `shift`,
// with a bias for each pair of a window's pixels: table[index[i, j], head]. Pixels that are
// neighbours only since the image was rolled add -100. Windows are cut, and put back, by indexing.
#pragma once

#include "attention.h"

namespace torchext {

struct WindowShape {
  int64_t H, W, window_h, window_w, shift_h, shift_w;
  int64_t entries;  // rows of the table
  const void* table;
  int64_t table_row, table_head;
  const int64_t* index;  // [N][N]
};

// Without mask, window_rows and regions, which launch() makes.
struct WindowAttention {
  Attention attention;
  WindowShape shape;
};
struct WindowAttentionBackward {
  AttentionBackward attention;
  WindowShape shape;
  void* grad_table;  // [entries][heads]
};

void launch(const WindowAttention& p, const Queue& queue);
void launch(const WindowAttentionBackward& p, const Queue& queue);

}  // namespace torchext
