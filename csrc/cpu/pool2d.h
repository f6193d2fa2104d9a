// How pooling is split among threads: into rows of outputs (or planes), and where C is long and
// rows are few, into blocks of channels too. By shape only, so results never depend on threads.
#pragma once

#include "../op/avg_pool2d.h"
#include "../op/max_pool2d.h"

namespace torchext::cpu {

// Independent pieces of a launch, and how many make a piece of work worth a thread.
struct Split {
  int64_t pieces, grain;
};

// Element-taps in about 5 us, twice the cost of a fork and join.
constexpr int64_t kWorthAThread = 1 << 17;
constexpr int64_t kChannelBlock = 64;  // channels: whole cache lines of any type
constexpr int64_t kEnoughRows = 64;

// outputs_over() input i, from those over input i - 1 (for i = 0: none), without dividing.
PLAIN Range next_outputs_over(const Window& window, int64_t i, int64_t outputs, Range last) {
  const int64_t at = i + window.padding, first_at = at - (window.kernel - 1) * window.dilation;
  while (last.begin * window.stride < first_at) ++last.begin;
  while (last.end < outputs && last.end * window.stride <= at) ++last.end;
  return last;
}

PLAIN Split split(int64_t pieces, int64_t cost) { return {pieces, kWorthAThread / (cost + 1) + 1}; }

// Channels handled by one piece of a channels-last op over `rows` rows.
PLAIN int64_t channel_block(int64_t rows, int64_t C) {
  return rows >= kEnoughRows ? C : kChannelBlock;
}

struct Piece {
  int64_t n, row, c_begin, c_end;
};

PLAIN Piece channels_last_piece(int64_t index, int64_t N, int64_t rows, int64_t C) {
  const int64_t block = channel_block(N * rows, C), blocks = ceil_div(C, block);
  const int64_t c = index % blocks * block, row = index / blocks;
  return {row / rows, row % rows, c, min_of(C, c + block)};
}

PLAIN int64_t channels_last_pieces(int64_t N, int64_t rows, int64_t C) {
  return N * rows * ceil_div(C, channel_block(N * rows, C));
}

// Channels-last kernels run their lanes along C, NCHW kernels along W.
PLAIN bool lanes_along_channels(const Strides& strides) { return strides.c == 1 && strides.w != 1; }

PLAIN int64_t taps_of(const MaxPool2d& p) {
  return min_of(p.h.kernel, p.H) * min_of(p.w.kernel, p.W);
}
PLAIN int64_t taps_of(const AvgPool2d& p) {
  return p.adaptive ? ceil_div(p.H, p.OH) * ceil_div(p.W, p.OW)
                    : min_of(p.h.kernel, p.H) * min_of(p.w.kernel, p.W);
}

// Forward: rows of outputs.
template <class P>
PLAIN Split forward_split(const P& p) {
  const int64_t cost = p.OW * taps_of(p);
  if (lanes_along_channels(p.y_stride)) {
    return split(channels_last_pieces(p.N, p.OH, p.C),
                 cost * min_of(p.C, channel_block(p.N * p.OH, p.C)));
  }
  return split(p.N * p.C * p.OH, cost * 4);  // short rows keep fewer lanes busy
}

// Backward: rows of inputs, gathered; in NCHW whole planes, each scattered to by one thread.
template <class P>
PLAIN Split backward_split(const P& p) {
  if (lanes_along_channels(p.grad_x_stride)) {
    return split(channels_last_pieces(p.N, p.H, p.C),
                 p.W * 4 * min_of(p.C, channel_block(p.N * p.H, p.C)));
  }
  return split(p.N * p.C, p.H * p.W * 4);
}

PLAIN Split split_of(const MaxPool2d& p) { return forward_split(p); }
PLAIN Split split_of(const AvgPool2d& p) { return forward_split(p); }
PLAIN Split split_of(const MaxPool2dBackward& p) { return backward_split(p); }
PLAIN Split split_of(const AvgPool2dBackward& p) { return backward_split(p); }
PLAIN Split split_of(const MaxPool2dIndices& p) { return split(p.N * p.C * p.OH, p.OW * 8); }

}  // namespace torchext::cpu
