// Recurrent layers: the inputs' products of all steps at once, then the steps.
#include "product.cuh"
#include "recurrent.cuh"

namespace torchext {
namespace {

constexpr const char* kOp = "recurrent";

// All rows of inputs, as a product reads them.
template <class T>
struct InputRows : MatrixRows<T> {
  int K;
  __device__ __forceinline__ int depth() const { return K; }
};

// Their products, of 16-bit numbers, in the type computed in.
struct Gates {
  float* to;
  int64_t row;
  const float* bias;  // or null
  int M, N;
  bool in_vectors;

  __host__ __device__ int phases() const { return 1; }
  __host__ __device__ int most_rows() const { return M; }
  __device__ __forceinline__ int rows() const { return M; }
  __device__ __forceinline__ void choose(int, int) {}
  template <int V>
  __device__ __forceinline__ void store(int m, int n, float (&values)[V]) const {
    float* at = to + m * row + n;
    Pack<float, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      pack.lanes[k] = values[k] + (bias && n + k < N ? bias[n + k] : 0.0f);
    }
    if (in_vectors) return tile::store(at, pack);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (n + k < N) at[k] = pack.lanes[k];
    }
  }
};

template <class W>
void multiply_inputs(const Recurrent& p, int64_t columns, void* gates, int64_t gates_row,
                     const Queue& queue) {
  if constexpr (sizeof(W) > 2) {
    multiply(p, p.N, p.I, columns, p.x, p.w_ih, p.b_ih, gates, gates_row, queue);
  } else {
    const Laid<W> x = laid_out<W>(kOp, {p.x, {p.I, 1, 0, 0}, p.N, p.I, 1, 1, 1}, {}, queue);
    const Laid<W> w = laid_out<W>(kOp, {p.w_ih, {p.I, 1, 0, 0}, columns, p.I, 1, 1, 1}, {}, queue);
    const ProductShape shape{p.N, columns, x.channels, 1, 1, false};
    const InputRows<W> a{{x.data, x.n, static_cast<int>(p.N)}, x.channels};
    const MatrixRows<W> b{w.data, w.n, static_cast<int>(columns)};
    const Gates out{
        static_cast<float*>(gates),        gates_row,
        static_cast<const float*>(p.b_ih), static_cast<int>(p.N),
        static_cast<int>(columns),         columns % kVector<W> == 0 && gates_row % 4 == 0};
    for_core<W>(shape, [&](auto core) {
      launch_product<decltype(core)>(kOp, shape, a, b, out, false, queue);
    });
  }
}

// One step of some rows, unit by unit. r: the products of the hidden state, with their bias.
template <class F>
struct OneStep {
  F* gates;  // [rows][gates][H], gates_row apart; replaced by what the gradient needs, if any does
  int64_t gates_row;
  const F *r, *h;
  F *y, *c;
  int64_t H, count;
  bool saves;
};

template <class Cell, class F>
__global__ void __launch_bounds__(kPointwiseThreads) cell_kernel(const OneStep<F> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.count) return;
  const int64_t row = index / p.H, unit = index - row * p.H;
  F* gates = p.gates + row * p.gates_row + unit;
  F x[Cell::kGates], r[Cell::kGates], saved[Cell::kSaved];
#pragma unroll
  for (int g = 0; g < Cell::kGates; ++g) {
    x[g] = gates[g * p.H];
    r[g] = p.r[(row * Cell::kGates + g) * p.H + unit];
  }
  F c = Cell::kHasC ? p.c[index] : F(0);
  const F h = Cell::forward(x, r, Cell::kOwnDr ? p.h[index] : F(0), c, saved);
  if (Cell::kHasC) p.c[index] = c;
  p.y[index] = h;
  if (!p.saves) return;
  saved[Cell::kSaved - 1] = h;
#pragma unroll
  for (int j = 0; j < Cell::kSaved; ++j) gates[j * p.H] = saved[j];
}

// All steps of a team's rows and a block's units.
template <class W>
struct AllSteps {
  using F = Compute<W>;
  Steps steps;
  TeamPlan plan;
  int H, K;   // K: H in whole vectors
  Laid<W> w;  // [gates * H][K]
  F* gates;
  int64_t gates_row;
  const F *bias, *h0;
  F *y, *h_n, *c;
  bool saves;
  unsigned* counters;  // of teams
};

template <class Cell, class W, int kRows>
__global__ void __launch_bounds__(kStepThreads, 2) recurrent_steps_kernel(const AllSteps<W> p) {
  using F = Compute<W>;
  constexpr int G = Cell::kGates, V = kVector<W>;
  const Steps& steps = p.steps;
  const int member = blockIdx.x % p.plan.team, slice = blockIdx.x / p.plan.team;
  const int first_unit = member * p.plan.units, units = min_of(p.plan.units, p.H - first_unit);
  const int first_row = slice * p.plan.rows;
  const int end_row = min_of(first_row + p.plan.rows, steps.B);
  const bool alone = p.plan.team == 1;  // then the states of the one tile stay here
  const int w_row = p.plan.weight_row, h_row = state_row<W>(p.H);

  F* state = tile::shared_array<F>();  // [tile][h_row], twice
  F* next = state + p.plan.tile * h_row;
  W* weights = reinterpret_cast<W*>(next + p.plan.tile * h_row);  // [gates][units][w_row]
  for (int i = threadIdx.x; i < G * units * (p.K / V); i += kStepThreads) {
    const int row = i / (p.K / V), k = (i - row * (p.K / V)) * V;
    const int g = row / units, unit = row - g * units;
    const W* from = p.w.data + (int64_t{g} * p.H + first_unit + unit) * p.w.n + k;
    tile::copy_async(weights + (g * p.plan.units + unit) * w_row + k, from);
  }
  tile::commit_copies();
  // The hidden states before step s of the rows from `row` on.
  const auto fetch = [&](int s, int row) {
    const F* last = s > 0 ? p.y + steps.begin(s - 1) * p.H : nullptr;
    const int had_one = steps.rows(s - 1);
    for (int i = threadIdx.x; i < p.plan.tile * p.K; i += kStepThreads) {
      const int r = i / p.K, k = i - r * p.K, of_batch = row + r;
      F h = 0;
      if (k < p.H && of_batch < end_row) {
        const int64_t at = int64_t{of_batch} * p.H + k;
        h = of_batch < had_one ? tile::load_fresh(last + at) : p.h0[at];
      }
      state[r * h_row + k] = h;
      if (alone) next[r * h_row + k] = h;
    }
  };
  if (alone) fetch(0, first_row);
  tile::wait_for_copies<0>();

  const int parts = p.plan.parts, groups = (p.plan.tile + kRows - 1) / kRows;
  const int items = units * groups, at_once = kStepThreads / parts;
  const int part = threadIdx.x % parts;
  for (int s = 0; s < steps.T; ++s) {
    const int rows = min_of(steps.rows(s), end_row), then = steps.rows(s + 1);
    for (int row = first_row; row < rows; row += p.plan.tile) {
      __syncthreads();  // whoever works on what was there
      if (!alone) {
        fetch(s, row);
        __syncthreads();
      }
      for (int first = 0; first < items; first += at_once) {
        const int item = first + threadIdx.x / parts, group = item / units;
        const int unit = item - group * units;
        const bool active = item < items;
        F sums[G][kRows] = {};
        multiply_state(sums, weights + unit * w_row, int64_t{p.plan.units} * w_row,
                       state + group * kRows * h_row, h_row, p.K, parts, active);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int in_tile = group * kRows + r, of_batch = row + in_tile;
          if (!active || r % parts != part || of_batch >= rows) continue;
          const int64_t of_all = steps.begin(s) + of_batch;
          const int at = first_unit + unit;
          F* gates = p.gates + of_all * p.gates_row + at;
          F x[G], own[G], saved[Cell::kSaved];
#pragma unroll
          for (int g = 0; g < G; ++g) {
            x[g] = gates[g * p.H];
            own[g] = sums[g][r] + (p.bias ? p.bias[g * p.H + at] : F(0));
          }
          F* c_now = p.c + int64_t{of_batch} * p.H + at;
          F c = Cell::kHasC ? *c_now : F(0);
          const F h = Cell::forward(x, own, state[in_tile * h_row + at], c, saved);
          if (Cell::kHasC) *c_now = c;
          p.y[of_all * p.H + at] = h;
          if (alone) next[in_tile * h_row + at] = h;
          if (of_batch >= then) p.h_n[int64_t{of_batch} * p.H + at] = h;  // its last step
          if (!p.saves) continue;
          saved[Cell::kSaved - 1] = h;
#pragma unroll
          for (int j = 0; j < Cell::kSaved; ++j) gates[j * p.H] = saved[j];
        }
      }
    }
    if (alone) {
      F* const filled = next;
      next = state;
      state = filled;
    } else if (s + 1 < steps.T) {
      tile::meet_blocks(p.counters + slice, static_cast<unsigned>((s + 1) * p.plan.team));
    }
  }
}

// The steps as one kernel, if the weights fit.
template <class Cell, class W>
bool run_together(const RecurrentForward& p, Compute<W>* gates, int64_t gates_row,
                  const Queue& queue) {
  using F = Compute<W>;
  const auto kernel = p.B == 1 ? recurrent_steps_kernel<Cell, W, 1>
                               : recurrent_steps_kernel<Cell, W, kRowsOfThread>;
  const TeamPlan plan =
      plan_team<W>(Cell::kGates, p.H, p.B, p.H,
                   tile::blocks_at_once(kOp, kernel, kStepThreads, tile::kMostShared));
  if (plan.team == 0) return false;
  AllSteps<W> a{};
  a.steps = steps_on_device(kOp, p, queue);
  a.plan = plan;
  a.H = static_cast<int>(p.H);
  a.w = laid_out<W>(kOp, {p.w_hh, {p.H, 1, 0, 0}, Cell::kGates * p.H, p.H, 1, 1, 1}, {}, queue);
  a.K = a.w.channels;
  a.gates = gates, a.gates_row = gates_row;
  a.bias = static_cast<const F*>(p.b_hh), a.h0 = static_cast<const F*>(p.h0);
  a.y = static_cast<F*>(p.y), a.h_n = static_cast<F*>(p.h_n), a.c = static_cast<F*>(p.c_n);
  a.saves = p.saved != nullptr;
  launch_team(kOp, kernel, a, queue);
  return true;
}

template <class Cell, class W>
void run_apart(const RecurrentForward& p, Compute<W>* gates, int64_t gates_row,
               const Queue& queue) {
  using F = Compute<W>;
  constexpr int64_t G = Cell::kGates;
  const void* w_hh = widened<W>(kOp, p.w_hh, G * p.H * p.P, queue);
  F* r = tile::scratch<F>(queue, p.B * G * p.H);
  auto* y = static_cast<F*>(p.y);
  // Rows [begin, end) of a step, from the hidden states at h.
  const auto run = [&](const Step& step, int64_t begin, int64_t end, const void* states) {
    if (begin >= end) return;
    const F* h = static_cast<const F*>(states) + begin * p.P;
    multiply(p, end - begin, p.P, G * p.H, h, w_hh, p.b_hh, r, G * p.H, queue);
    const int64_t row = step.row + begin, count = (end - begin) * p.H;
    F* c = p.c_n ? static_cast<F*>(p.c_n) + begin * p.H : nullptr;
    const OneStep<F> one{gates + row * gates_row, gates_row, r, h, y + row * p.H, c, p.H, count,
                         p.saved != nullptr};
    launch_pointwise(kOp, cell_kernel<Cell, F>, one, count, 1, queue);
  };
  Step last{0, 0};
  const auto end_from = [&](int64_t rows) {  // on, those of the last step
    if (!p.h_n || last.rows <= rows) return;
    copy_or_zero<F>(kOp, static_cast<F*>(p.h_n) + rows * p.H, y + (last.row + rows) * p.H,
                    (last.rows - rows) * p.H, queue);
  };
  for (const Step& step : steps_of(p)) {
    const int64_t both = min_of(step.rows, last.rows);
    run(step, 0, both, y + last.row * p.H);
    run(step, both, step.rows, p.h0);
    end_from(step.rows);
    last = step;
  }
  end_from(0);
}

}  // namespace

void launch(const RecurrentForward& p, const Queue& queue) {
  for_cell(p, [&](auto cell, auto zero) {
    using Cell = decltype(cell);
    using W = decltype(zero);
    using F = Compute<W>;
    const int64_t gates_row = (p.saved ? Cell::kSaved : Cell::kGates) * p.H;
    F* gates = p.saved ? static_cast<F*>(p.saved) : tile::scratch<F>(queue, p.N * gates_row);
    multiply_inputs<W>(p, Cell::kGates * p.H, gates, gates_row, queue);
    if (Cell::kHasC) copy_or_zero<F>(kOp, p.c_n, p.c0, p.B * p.H, queue);
    if (p.T > 1 && run_together<Cell, W>(p, gates, gates_row, queue)) return;
    run_apart<Cell, W>(p, gates, gates_row, queue);
  });
}

}  // namespace torchext
