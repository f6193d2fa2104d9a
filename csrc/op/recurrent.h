// Recurrent layers, one direction of one layer; a cell is a sequence of one step. With the inputs'
// products x = w_ih x_t + b_ih and the hidden state's r = w_hh h + b_hh, each of one row of H per
// gate, a step is
//   lstm  i, f, g, o = x + r; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c)
//   gru   r, z, n;  n = tanh(x_n + sigmoid(x_r + r_r) r_n); h = n + sigmoid(x_z + r_z) (h - n)
//   rnn   h = tanh(x + r), or relu
// Rows of different lengths are packed as torch packs them: step t has the first batch_sizes[t]
// rows of the batch, and its rows follow those of the step before.
#pragma once

#include "../common/plain.h"

namespace torchext {

enum class Cell : int32_t { lstm, gru, rnn_tanh, rnn_relu };

// Of each of them: its gates; how many rows of H a step saves for its gradient, the last of which
// is h (see ../common/cells.h); whether the gradients of x and of r differ.
struct CellKind {
  int64_t gates, saved;
  bool own_dr;
};
constexpr CellKind kCells[] = {{4, 6, false}, {3, 5, true}, {1, 1, false}, {1, 1, false}};
PLAIN int64_t gates_of(Cell cell) { return kCells[static_cast<int>(cell)].gates; }
PLAIN int64_t saved_of(Cell cell) { return kCells[static_cast<int>(cell)].saved; }
PLAIN bool has_own_dr(Cell cell) { return kCells[static_cast<int>(cell)].own_dr; }

// Everything is dense, and of the type computed in: dtype is f32 or f64. But x, w_ih and w_hh are
// of type `stored`, which on the CPU is the same.
struct Recurrent {
  DType dtype, stored;
  Cell cell;
  bool reverse;
  int64_t T, B, N, I, H;  // N: rows of all steps together
  int64_t P;              // of the hidden state: H, but for the cell of an LSTM with projections
  const int64_t* batch_sizes;  // T
  const void *x, *h0, *c0;     // [N, I], [B, P], [B, H]; c0 only for lstm
  const void *w_ih, *w_hh;     // [gates * H, I], [gates * H, P]
  const void *b_ih, *b_hh;     // [gates * H], or null
};

struct RecurrentForward : Recurrent {
  void *y, *h_n, *c_n;  // [N, H], [B, H], [B, H]; no h_n of a single step: it is y
  void* saved;          // [N, saved * H]; null in inference
};

struct RecurrentBackward : Recurrent {
  const void *grad_y, *grad_h_n, *grad_c_n;  // the last two, or null
  const void* saved;
  void *grad_x, *grad_h0, *grad_c0, *grad_w_ih, *grad_w_hh, *grad_b_ih, *grad_b_hh;
};

void launch(const RecurrentForward& p, const Queue& queue);
void launch(const RecurrentBackward& p, const Queue& queue);

}  // namespace torchext
