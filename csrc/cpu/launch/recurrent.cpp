// Recurrent layers on the CPU: the inputs of all steps in one product, then step by step the hidden
// state's product and the cell; weights are packed once. Going back: the steps in the other order,
// then the gradients of inputs and weights, each one product over all steps.
#include "../recurrent.h"

#include <cstring>

#include "../../op/recurrent_steps.h"
#include "../dots.h"
#include "../outer.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Product& p, const Queue&);
void launch(const cpu::Outer& p, const Queue&);
void launch(const cpu::ColumnSums& p, const Queue&);
void launch(const cpu::Dots& p, const Queue&);
void launch(const cpu::Combinations& p, const Queue&);
void launch(const cpu::RecurrentStep& p, const Queue&);
void launch(const cpu::RecurrentStepBackward& p, const Queue&);

namespace {

constexpr int64_t kOneSegment[] = {0};

void copy(DType dtype, void* to, const void* from, int64_t count) {
  if (to != nullptr && count > 0) std::memcpy(to, from, count * cpu::compute_size(dtype));
}

void copy_rows(DType dtype, int64_t rows, int64_t columns, const void* from, int64_t from_row,
               void* to, int64_t to_row) {
  for (int64_t row = 0; row < rows; ++row) {
    copy(dtype, at_f(to, dtype, row * to_row), at_f(from, dtype, row * from_row), columns);
  }
}

void zero(DType dtype, void* to, int64_t count) {
  if (count > 0) std::memset(to, 0, count * cpu::compute_size(dtype));
}

// w[group, n, k] as panels; groups follow each other.
Scratch pack_matrix(DType dtype, const void* w, int64_t groups, int64_t N, int64_t K, int64_t w_n,
                    int64_t w_k) {
  cpu::Panels panels{dtype, groups, N, 1, K, w, N * w_n, w_n, w_k, kOneSegment, nullptr, false};
  return pack(panels);
}

// y[row, group, n] = sum over k of a[row, k] * b[group, n, k] + bias[group, n], from panels.
struct Rows {
  DType dtype;
  int64_t rows, groups, N, K;
  const void* a;
  int64_t a_row;
  const void *b, *bias;
  void* y;
  int64_t y_row;
};
cpu::Product product_of(const Rows& r) {
  cpu::Product p{};
  p.dtype = r.dtype;
  p.groups = r.groups, p.images = p.rows = 1, p.columns = r.rows;
  p.segments = 1, p.K = r.K, p.N = r.N;
  p.a = r.a, p.a_column = r.a_row, p.a_segment = kOneSegment;
  p.b = r.b, p.bias = r.bias;
  p.b_row = panel_columns(r.dtype), p.b_panel = r.K * p.b_row;
  p.b_group = ceil_div(r.N, p.b_row) * p.b_panel;
  p.y = r.y, p.y_group = r.N, p.y_column = r.y_row, p.y_n = 1;
  p.activation = Activation::none;
  return p;
}

// y[row, n] = sum over k of a[row, k] * w[k, n], added to what y holds if `adds`.
struct RowsBack {
  DType dtype;
  int64_t rows, N, K;
  const void* a;
  int64_t a_row;
  const void *w, *panels;  // panels of w, or null
  void* y;
  bool adds;
};
void multiply_back(const RowsBack& r) {
  if (r.panels == nullptr && r.rows <= cpu::kFewRows) {
    launch(cpu::Combinations{r.dtype, r.rows, r.N, r.K, r.a, r.w, r.y, r.a_row, r.N, r.N, r.adds},
           Queue{});
    return;
  }
  const Scratch packed =
      r.panels ? Scratch(r.dtype, 0) : pack_matrix(r.dtype, r.w, 1, r.N, r.K, 1, r.N);
  cpu::Product p = product_of({r.dtype, r.rows, 1, r.N, r.K, r.a, r.a_row,
                               r.panels ? r.panels : packed.get(), nullptr, r.y, r.N});
  if (r.adds) p.residual = p.y, p.residual_column = p.y_column, p.residual_n = p.y_n;
  launch(p, Queue{});
}

// to[m, n] = sum over rows of a[row, m] * b[row, n]. Tiles read whole vectors of b: scratch memory.
void multiply_transposed(DType dtype, int64_t rows, int64_t M, int64_t N, const void* a,
                         int64_t a_row, const Scratch& b, int64_t b_row, void* to) {
  cpu::Outer p{};
  p.dtype = dtype;
  p.groups = p.images = p.rows = p.segments = p.chunks = 1, p.columns = rows;
  p.M = M, p.N = N;
  p.a = a, p.a_column = a_row;
  p.b = b.get(), p.b_column = b_row, p.b_segment = kOneSegment;
  p.sums = to, p.sums_m = N;
  launch(p, Queue{});
}

void sum_rows(DType dtype, int64_t rows, int64_t columns, const void* x, int64_t x_row, void* to) {
  launch(cpu::ColumnSums{dtype, 1, 1, rows, columns, x, 0, 0, x_row, to}, Queue{});
}

}  // namespace

void launch(const RecurrentForward& p, const Queue&) {
  const int64_t G = gates_of(p.cell);
  const int64_t gates_row = (p.saved ? saved_of(p.cell) : G) * p.H;
  const Scratch memory(p.dtype, p.saved ? 0 : p.N, gates_row);
  void* gates = p.saved ? p.saved : memory.get();
  const bool few = p.N <= cpu::kFewRows;  // then weights are read where they are
  if (few) {
    launch(cpu::Dots{p.dtype, p.N, G * p.H, p.I, p.x, p.w_ih, p.b_ih, nullptr, gates, p.I, p.I, 0,
                     gates_row, Activation::none},
           Queue{});
  } else {
    const Scratch w_ih = pack_matrix(p.dtype, p.w_ih, G, p.H, p.I, p.I, 1);
    launch(product_of({p.dtype, p.N, G, p.H, p.I, p.x, p.I, w_ih.get(), p.b_ih, gates, gates_row}),
           Queue{});
  }
  if (p.c0) copy(p.dtype, p.c_n, p.c0, p.B * p.H);

  const Scratch w_hh =
      few ? Scratch(p.dtype, 0) : pack_matrix(p.dtype, p.w_hh, G, p.H, p.P, p.P, 1);
  cpu::RecurrentStep s{};
  s.dtype = p.dtype, s.cell = p.cell, s.training = p.saved != nullptr;
  s.H = p.H, s.P = p.P;
  s.gates_row = gates_row;
  s.w = few ? p.w_hh : w_hh.get(), s.in_place = few, s.bias = p.b_hh;
  // Rows [begin, end) of a step, from the hidden states at h.
  const auto run = [&](const Step& step, int64_t begin, int64_t end, const void* h) {
    if (begin >= end) return;
    s.rows = end - begin;
    s.gates = at_f(gates, p.dtype, (step.row + begin) * gates_row);
    s.h = at_f(h, p.dtype, begin * p.P);
    s.y = at_f(p.y, p.dtype, (step.row + begin) * p.H);
    s.c = at_f(p.c_n, p.dtype, begin * p.H);
    launch(s, Queue{});
  };
  Step last{0, 0};
  for (const Step& step : steps_of(p)) {
    const int64_t both = min_of(step.rows, last.rows);
    run(step, 0, both, at_f(p.y, p.dtype, last.row * p.H));
    run(step, both, step.rows, p.h0);
    // Rows that end with the last step.
    copy(p.dtype, at_f(p.h_n, p.dtype, step.rows * p.H),
         at_f(p.y, p.dtype, (last.row + step.rows) * p.H), (last.rows - step.rows) * p.H);
    last = step;
  }
  copy(p.dtype, p.h_n, at_f(p.y, p.dtype, last.row * p.H), last.rows * p.H);
}

void launch(const RecurrentBackward& p, const Queue&) {
  const int64_t G = gates_of(p.cell), K = G * p.H;
  // A cache line between rows: at a power of two apart, those of a tile would share a cache set.
  const int64_t line = 64 / cpu::compute_size(p.dtype);
  const int64_t gates_row = K + line, x_row = p.I + line, h_row = p.P + line;
  const Scratch dx_memory(p.dtype, p.N, gates_row);
  const bool own_dr = has_own_dr(p.cell);
  const Scratch dr_memory(p.dtype, own_dr ? p.N : 0, gates_row);
  void *dx = dx_memory.get(), *dr = own_dr ? dr_memory.get() : dx;
  const std::vector<Step> steps = steps_of(p);

  const Scratch h_memory(p.dtype, p.N, h_row);  // the hidden states before each step
  Step last{0, 0};
  for (const Step& step : steps) {
    const int64_t both = min_of(step.rows, last.rows);
    void* to = at_f(h_memory.get(), p.dtype, step.row * h_row);
    const int64_t saved_row = saved_of(p.cell) * p.H;
    const void* h = at_f(p.saved, p.dtype, (last.row + 1) * saved_row - p.H);
    copy_rows(p.dtype, both, p.P, h, saved_row, to, h_row);
    copy_rows(p.dtype, step.rows - both, p.P, at_f(p.h0, p.dtype, both * p.P), p.P,
              at_f(to, p.dtype, both * h_row), h_row);
    last = step;
  }

  // dh and dc hold what is handed back to each row of the batch; in the end the initial states'.
  const Scratch projected(p.dtype, p.P == p.H ? 0 : p.B, p.H);
  void* dh = p.P == p.H ? p.grad_h0 : projected.get();
  if (p.P != p.H) zero(p.dtype, p.grad_h0, p.B * p.P);
  p.grad_h_n ? copy(p.dtype, dh, p.grad_h_n, p.B * p.H) : zero(p.dtype, dh, p.B * p.H);
  if (p.c0) {
    p.grad_c_n ? copy(p.dtype, p.grad_c0, p.grad_c_n, p.B * p.H)
               : zero(p.dtype, p.grad_c0, p.B * p.H);
  }

  {
    // No step of a cell hands anything to another.
    const bool packed = p.T > 1;
    const Scratch w_hh =
        packed ? pack_matrix(p.dtype, p.w_hh, 1, p.P, K, 1, p.P) : Scratch(p.dtype, 0);
    const void* panels = packed ? w_hh.get() : nullptr;
    cpu::RecurrentStepBackward s{};
    s.dtype = p.dtype, s.cell = p.cell;
    s.H = p.H, s.h_row = h_row, s.gates_row = gates_row;
    s.w = panels;
    // Rows [begin, end) of the batch: what `after`, if any, hands back, then the cell of `step`.
    const auto run = [&](const Step& step, const Step* after, int64_t begin, int64_t end) {
      if (begin >= end) return;
      const int64_t row = step.row + begin;
      s.rows = end - begin;
      s.after = after ? at_f(dr, p.dtype, (after->row + begin) * gates_row) : nullptr;
      s.dh = at_f(dh, p.dtype, begin * p.H);
      s.saved = at_f(p.saved, p.dtype, row * saved_of(p.cell) * p.H);
      s.h = at_f(h_memory.get(), p.dtype, row * h_row);
      s.grad_y = at_f(p.grad_y, p.dtype, row * p.H);
      s.dc = at_f(p.grad_c0, p.dtype, begin * p.H);
      s.dx = at_f(dx, p.dtype, row * gates_row);
      s.dr = at_f(dr, p.dtype, row * gates_row);
      launch(s, Queue{});
    };
    // Of rows whose first step was `step`.
    const auto hand_back = [&](const Step& step, int64_t begin, int64_t end) {
      if (begin >= end) return;
      multiply_back({p.dtype, end - begin, p.P, K,
                     at_f(dr, p.dtype, (step.row + begin) * gates_row), gates_row, p.w_hh, panels,
                     at_f(p.grad_h0, p.dtype, begin * p.P), true});
    };
    const Step* after = nullptr;
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      const int64_t before = after ? after->rows : 0, both = min_of(step->rows, before);
      run(*step, after, 0, both);
      run(*step, nullptr, both, step->rows);
      if (after) hand_back(*after, both, before);
      after = &*step;
    }
    hand_back(*after, 0, after->rows);
  }

  multiply_back({p.dtype, p.N, p.I, K, dx, gates_row, p.w_ih, nullptr, p.grad_x, false});
  const Scratch x(p.dtype, p.N, x_row);
  copy_rows(p.dtype, p.N, p.I, p.x, p.I, x.get(), x_row);
  multiply_transposed(p.dtype, p.N, K, p.I, dx, gates_row, x, x_row, p.grad_w_ih);
  multiply_transposed(p.dtype, p.N, K, p.P, dr, gates_row, h_memory, h_row, p.grad_w_hh);
  sum_rows(p.dtype, p.N, K, dx, gates_row, p.grad_b_ih);
  if (own_dr) {
    sum_rows(p.dtype, p.N, K, dr, gates_row, p.grad_b_hh);
  } else {
    copy(p.dtype, p.grad_b_hh, p.grad_b_ih, K);
  }
}

}  // namespace torchext
