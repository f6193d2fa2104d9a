// One step of a recurrent layer on rows that all have it: the hidden state's product and the cell,
// in one pass over the hidden units. Everything is of the type computed in; dtype is f32 or f64.
#pragma once

#include "../op/recurrent.h"
#include "product.h"

namespace torchext::cpu {

struct RecurrentStep {
  DType dtype;
  Cell cell;
  bool training;
  int64_t rows, H, P;
  void* gates;  // [rows][gates][H], `gates_row` apart: the inputs' products; in training they are
  int64_t gates_row;  // replaced by what the gradient needs
  const void* h;      // [rows][P]
  const void* w;      // panels of a group per gate; or, in place, [gates * H][P]
  bool in_place;
  const void* bias;  // [gates][H], or null
  void* y;           // [rows][H]: the new h
  void* c;           // [rows][H], in place
};

// Going back: first what the step that came after, if any, hands back through its product, then
// this step's cell.
struct RecurrentStepBackward {
  DType dtype;
  Cell cell;
  int64_t rows, H;
  const void* after;  // dr of the step after, [rows][gates * H], or null
  const void* w;      // panels of one group; read only where there is a step after
  void* dh;           // [rows][H] in: what else the step after hands back; out: what this does
  const void* saved;  // [rows][saved][H]
  const void* h;      // [rows][H], `h_row` apart, before the step
  int64_t h_row;
  const void* grad_y;  // [rows][H]
  void* dc;            // [rows][H], in place
  void *dx, *dr;       // [rows][gates * H]; may be the same
  int64_t gates_row;   // from row to row of dx, dr and after
};

// Into how many blocks of nearly equal size the rows are cut. A block shares the way of the weights
// from memory: one if it is not too large and there are panels for 16 threads.
constexpr int64_t kMostRows = 56, kLeastRows = 14;
PLAIN int64_t row_blocks(int64_t rows, int64_t panels) {
  return max_of(ceil_div(rows, kMostRows),
                min_of(ceil_div(rows, kLeastRows), ceil_div(int64_t{16}, panels)));
}

PLAIN Split step_split(DType dtype, int64_t rows, int64_t columns, int64_t products, int64_t K) {
  const int64_t panels = ceil_div(columns, panel_columns(dtype)), blocks = row_blocks(rows, panels);
  // One row takes as long as two: as long as its weights take to come.
  const int64_t rows_each = max_of(int64_t{2}, ceil_div(rows, blocks));
  return split(blocks * panels, rows_each * products * panel_columns(dtype) * (K + 32));
}
PLAIN Split split_of(const RecurrentStep& p) {
  return step_split(p.dtype, p.rows, p.H, gates_of(p.cell), p.P);
}
PLAIN Split split_of(const RecurrentStepBackward& p) {
  return step_split(p.dtype, p.rows, p.H, 1, p.after ? gates_of(p.cell) * p.H : 32);
}

}  // namespace torchext::cpu
