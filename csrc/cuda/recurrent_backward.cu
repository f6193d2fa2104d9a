// Gradients of recurrent layers: the steps in the other order, then the gradients of inputs and
// weights, each one product over all steps.
#include "recurrent.cuh"

namespace torchext {
namespace {

constexpr const char* kOp = "recurrent_backward";

// What a unit's gradients are made of, and where they go.
template <class F>
struct CellGradients {
  const F *saved, *h;  // [rows][kSaved][H]; [rows][H], before the step
  const F* grad_y;
  F *dh, *dc;  // [batch][H]: what the step after hands back but for its product, in place
  F *dx, *dr;  // [rows][gates][H], may be the same
  int64_t H;

  // Of the row that is `row` of all and `of_batch`; handed: by the product of the step after.
  template <class Cell>
  __device__ __forceinline__ void differentiate(int64_t row, int64_t of_batch, int64_t unit,
                                                F handed) const {
    F own[Cell::kSaved], of_x[Cell::kGates], of_r[Cell::kGates];
#pragma unroll
    for (int j = 0; j < Cell::kSaved; ++j) own[j] = saved[(row * Cell::kSaved + j) * H + unit];
    const int64_t at = row * H + unit, state = of_batch * H + unit;
    F of_h = dh[state] + handed + grad_y[at];
    F of_c = Cell::kHasC ? dc[state] : F(0);
    Cell::backward(own, Cell::kOwnDr ? h[at] : F(0), of_h, of_c, of_x, of_r);
    dh[state] = of_h;
    if (Cell::kHasC) dc[state] = of_c;
#pragma unroll
    for (int g = 0; g < Cell::kGates; ++g) {
      dx[(row * Cell::kGates + g) * H + unit] = of_x[g];
      if (Cell::kOwnDr) dr[(row * Cell::kGates + g) * H + unit] = of_r[g];
    }
  }
};

// One step, unit by unit.
template <class F>
struct OneStepBack {
  CellGradients<F> to;
  int64_t row, count;
  const F* handed;  // or null
};

template <class Cell, class F>
__global__ void __launch_bounds__(kPointwiseThreads) cell_backward_kernel(const OneStepBack<F> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.count) return;
  const int64_t row = index / p.to.H, unit = index - row * p.to.H;
  p.to.template differentiate<Cell>(p.row + row, row, unit, p.handed ? p.handed[index] : F(0));
}

template <class F>
struct Sum {
  F* to;
  const F* more;
  int64_t count;
};
template <class F>
__global__ void __launch_bounds__(kPointwiseThreads) add_kernel(const Sum<F> p) {
  const int64_t index = pointwise_begin<1>();
  if (index < p.count) p.to[index] += p.more[index];
}

// The hidden states before each step, for all rows.
template <class F>
struct Before {
  Steps steps;
  const F *saved, *h0;
  int64_t H, saved_row;
  F* h;
};
template <class F>
__global__ void __launch_bounds__(kPointwiseThreads) before_kernel(const Before<F> p) {
  const int64_t index = pointwise_begin<1>();
  const int64_t row = index / p.H, unit = index - row * p.H;
  const auto s = static_cast<int>(row / p.steps.B), of_batch = static_cast<int>(row % p.steps.B);
  if (s >= p.steps.T || of_batch >= p.steps.rows(s)) return;
  const F* from = p.h0 + of_batch * p.H;
  if (of_batch < p.steps.rows(s - 1)) {
    from = p.saved + (p.steps.begin(s - 1) + of_batch + 1) * p.saved_row - p.H;
  }
  p.h[(p.steps.begin(s) + of_batch) * p.H + unit] = from[unit];
}

// All steps of a team's rows and a block's units, which keeps what all gates hand back to them.
template <class W>
struct AllStepsBack {
  CellGradients<Compute<W>> to;
  Steps steps;
  TeamPlan plan;
  int K;      // gates * H in whole vectors
  Laid<W> w;  // [H][K]: turned
  unsigned* counters;
};

template <class Cell, class W, int kRows>
__global__ void __launch_bounds__(kStepThreads, 2)
    recurrent_steps_backward_kernel(const AllStepsBack<W> p) {
  using F = Compute<W>;
  constexpr int V = kVector<W>;
  const Steps& steps = p.steps;
  const auto H = static_cast<int>(p.to.H);
  const int all = Cell::kGates * H;
  const int member = blockIdx.x % p.plan.team, slice = blockIdx.x / p.plan.team;
  const int first_unit = member * p.plan.units, units = min_of(p.plan.units, H - first_unit);
  const int first_row = slice * p.plan.rows;
  const int end_row = min_of(first_row + p.plan.rows, steps.B);
  const int w_row = p.plan.weight_row, dr_row = state_row<W>(all);

  F* state = tile::shared_array<F>();                               // [tile][dr_row]
  W* weights = reinterpret_cast<W*>(state + p.plan.tile * dr_row);  // [units][w_row]
  for (int i = threadIdx.x; i < units * (p.K / V); i += kStepThreads) {
    const int unit = i / (p.K / V), k = (i - unit * (p.K / V)) * V;
    tile::copy_async(weights + unit * w_row + k, p.w.data + int64_t{first_unit + unit} * p.w.n + k);
  }
  tile::commit_copies();
  tile::wait_for_copies<0>();

  const int parts = p.plan.parts, groups = (p.plan.tile + kRows - 1) / kRows;
  const int items = units * groups, at_once = kStepThreads / parts;
  const int part = threadIdx.x % parts;
  // Step -1 is none: there the initial states get what the first steps hand back.
  for (int s = steps.T - 1; s >= -1; --s) {
    const int rows = steps.rows(s), after = steps.rows(s + 1);
    const F* handing = after > 0 ? p.to.dr + steps.begin(s + 1) * all : nullptr;
    for (int row = first_row; row < min_of(max_of(rows, after), end_row); row += p.plan.tile) {
      __syncthreads();  // whoever works on what was there
      for (int i = threadIdx.x; i < p.plan.tile * p.K; i += kStepThreads) {
        const int r = i / p.K, k = i - r * p.K, of_batch = row + r;
        const bool any = k < all && of_batch < after && of_batch < end_row;
        state[r * dr_row + k] =
            any ? tile::load_fresh(handing + int64_t{of_batch} * all + k) : F(0);
      }
      __syncthreads();
      for (int first = 0; first < items; first += at_once) {
        const int item = first + threadIdx.x / parts, group = item / units;
        const int unit = item - group * units;
        const bool active = item < items;
        F sums[1][kRows] = {};
        multiply_state(sums, weights + unit * w_row, 0, state + group * kRows * dr_row, dr_row, p.K,
                       parts, active);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int of_batch = row + group * kRows + r;
          if (!active || r % parts != part || of_batch >= end_row) continue;
          const int at = first_unit + unit;
          if (of_batch < rows) {
            p.to.template differentiate<Cell>(steps.begin(s) + of_batch, of_batch, at, sums[0][r]);
          } else if (of_batch < after) {
            p.to.dh[int64_t{of_batch} * H + at] += sums[0][r];
          }
        }
      }
    }
    if (s >= 0 && p.plan.team > 1) {
      tile::meet_blocks(p.counters + slice, static_cast<unsigned>((steps.T - s) * p.plan.team));
    }
  }
}

template <class Cell, class W>
bool run_together(const RecurrentBackward& p, const CellGradients<Compute<W>>& to,
                  const Steps& steps, const Queue& queue) {
  const auto kernel = p.B == 1 ? recurrent_steps_backward_kernel<Cell, W, 1>
                               : recurrent_steps_backward_kernel<Cell, W, kRowsOfThread>;
  const int64_t K = Cell::kGates * p.H;
  const TeamPlan plan = plan_team<W>(
      1, p.H, p.B, K, tile::blocks_at_once(kOp, kernel, kStepThreads, tile::kMostShared));
  if (plan.team == 0) return false;
  AllStepsBack<W> a{to, steps, plan, 0, {}, nullptr};
  a.w = laid_out_copy<W>(kOp, {p.w_hh, {1, p.H, 0, 0}, p.H, K, 1, 1, 1}, {}, queue);
  a.K = a.w.channels;
  launch_team(kOp, kernel, a, queue);
  return true;
}

// y = dr * w, of rows of gates.
void multiply_back(const Recurrent& p, int64_t rows, int64_t K, int64_t C, const void* grad,
                   const void* weight, void* to, const Queue& queue) {
  Conv2dBackwardInput c{};
  static_cast<Conv2dShape&>(c) = shape_of_rows(p, rows, C, K);
  c.grad_y = grad, c.weight = weight, c.grad_x = to;
  c.grad_y_stride = {0, 1, 0, K}, c.w_stride = {C, 1, 0, 0}, c.grad_x_stride = {0, 1, 0, C};
  c.activation = Activation::none;
  if (rows > 0) launch(c, queue);
}

void differentiate_weight(const Recurrent& p, int64_t K, int64_t C, const void* grad, const void* x,
                          void* grad_weight, void* grad_bias, const Queue& queue) {
  Conv2dBackwardWeight c{};
  static_cast<Conv2dShape&>(c) = shape_of_rows(p, p.N, C, K);
  c.grad_y = grad, c.x = x, c.grad_weight = grad_weight, c.grad_bias = grad_bias;
  c.grad_y_stride = {0, 1, 0, K}, c.x_stride = {0, 1, 0, C}, c.w_stride = {C, 1, 0, 0};
  c.activation = Activation::none;
  launch(c, queue);
}

template <class Cell, class W>
void run_apart(const RecurrentBackward& p, const CellGradients<Compute<W>>& to,
               const Queue& queue) {
  using F = Compute<W>;
  const int64_t K = Cell::kGates * p.H;
  const void* w_hh = widened<W>(kOp, p.w_hh, K * p.P, queue);
  F* handed = tile::scratch<F>(queue, p.B * max_of(p.P, p.H));
  const std::vector<Step> steps = steps_of(p);
  const Step* after = nullptr;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const int64_t before = after ? after->rows : 0, both = min_of(step->rows, before);
    if (after) multiply_back(p, before, K, p.P, to.dr + after->row * K, w_hh, handed, queue);
    const auto run = [&](int64_t begin, int64_t end, const F* handed) {
      const int64_t count = (end - begin) * p.H;
      CellGradients<F> part = to;
      part.dh += begin * p.H;
      if (Cell::kHasC) part.dc += begin * p.H;
      const OneStepBack<F> one{part, step->row + begin, count, handed};
      if (count > 0) launch_pointwise(kOp, cell_backward_kernel<Cell, F>, one, count, 1, queue);
    };
    run(0, both, handed);
    run(both, step->rows, nullptr);
    const Sum<F> rest{static_cast<F*>(p.grad_h0) + both * p.P, handed + both * p.P,
                      (before - both) * p.P};  // rows whose first step `after` was
    if (rest.count > 0) launch_pointwise(kOp, add_kernel<F>, rest, rest.count, 1, queue);
    after = &*step;
  }
  multiply_back(p, after->rows, K, p.P, to.dr + after->row * K, w_hh, handed, queue);
  const Sum<F> rest{static_cast<F*>(p.grad_h0), handed, after->rows * p.P};
  if (rest.count > 0) launch_pointwise(kOp, add_kernel<F>, rest, rest.count, 1, queue);
}

template <class Cell, class W>
void differentiate(const RecurrentBackward& p, const Queue& queue) {
  using F = Compute<W>;
  const int64_t K = Cell::kGates * p.H;
  CellGradients<F> to{};
  to.H = p.H;
  to.saved = static_cast<const F*>(p.saved), to.grad_y = static_cast<const F*>(p.grad_y);
  to.dx = tile::scratch<F>(queue, p.N * K);
  to.dr = Cell::kOwnDr ? tile::scratch<F>(queue, p.N * K) : to.dx;
  // dh holds what is handed back to each row; in the end the initial states'.
  to.dh = p.P == p.H ? static_cast<F*>(p.grad_h0) : tile::scratch<F>(queue, p.B * p.H);
  if (p.P != p.H) copy_or_zero<F>(kOp, p.grad_h0, nullptr, p.B * p.P, queue);
  copy_or_zero<F>(kOp, to.dh, p.grad_h_n, p.B * p.H, queue);
  to.dc = static_cast<F*>(p.grad_c0);
  if (Cell::kHasC) copy_or_zero<F>(kOp, to.dc, p.grad_c_n, p.B * p.H, queue);

  const void* h = p.h0;
  Steps steps{};
  if (p.T > 1 && p.B > 0) {
    steps = steps_on_device(kOp, p, queue);
    const Before<F> before{steps, to.saved,           static_cast<const F*>(p.h0),
                           p.H,   Cell::kSaved * p.H, tile::scratch<F>(queue, p.N * p.H)};
    launch_pointwise(kOp, before_kernel<F>, before, p.T * p.B * p.H, 1, queue);
    h = before.h;
  }
  to.h = static_cast<const F*>(h);
  if (p.B > 0 && !(p.T > 1 && run_together<Cell, W>(p, to, steps, queue))) {
    run_apart<Cell, W>(p, to, queue);
  }

  const void* w_ih = widened<W>(kOp, p.w_ih, K * p.I, queue);
  const void* x = widened<W>(kOp, p.x, p.N * p.I, queue);
  multiply_back(p, p.N, K, p.I, to.dx, w_ih, p.grad_x, queue);
  differentiate_weight(p, K, p.I, to.dx, x, p.grad_w_ih, p.grad_b_ih, queue);
  differentiate_weight(p, K, p.P, to.dr, h, p.grad_w_hh, p.grad_b_hh, queue);
}

}  // namespace

void launch(const RecurrentBackward& p, const Queue& queue) {
  for_cell(p,
           [&](auto cell, auto zero) { differentiate<decltype(cell), decltype(zero)>(p, queue); });
}

}  // namespace torchext
