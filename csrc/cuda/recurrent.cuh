// What the recurrent layers' kernels share.
//
// Where its recurrent weights fit into the shared memory of blocks that run at once, a layer is one
// cooperative kernel: a team of blocks has some rows of the batch, each block of it some hidden
// units, whose weights it keeps; after each step the team meets and hands its states around by way
// of L2. A team of one block has no need to. Otherwise, and for a single step, the products are
// those of a linear layer and each step is a kernel that works unit by unit.
#pragma once

#include "../op/conv2d.h"
#include "../op/recurrent_steps.h"
#include "cells.cuh"
#include "lay_out.cuh"
#include "pointwise.cuh"
#include "tile/grid.cuh"
#include "tile/queue.cuh"
#include "tile/warp_product.cuh"

namespace torchext {

// The rows of each step, in the order of time.
struct Steps {
  int T, B;
  bool reverse;
  const int64_t* begins;  // [T + 1]; null: B rows each

  // Of the step that is done s-th; none before the first and after the last.
  __device__ __forceinline__ int64_t begin(int s) const {
    const int t = reverse ? T - 1 - s : s;
    return begins ? begins[t] : int64_t{t} * B;
  }
  __device__ __forceinline__ int rows(int s) const {
    if (s < 0 || s >= T) return 0;
    const int t = reverse ? T - 1 - s : s;
    return begins ? static_cast<int>(begins[t + 1] - begins[t]) : B;
  }
};

// Numbers that the host knows come as arguments: no copy that a graph might repeat too late.
constexpr int kBegins = 256;
struct Begins {
  int64_t* to;
  int count;
  int64_t values[kBegins];
};

static __global__ void __launch_bounds__(kBegins) begins_kernel(const Begins b) {
  const int index = threadIdx.x;
  if (index < b.count) b.to[index] = b.values[index];
}

inline Steps steps_on_device(const char* op, const Recurrent& p, const Queue& queue) {
  Steps steps{static_cast<int>(p.T), static_cast<int>(p.B), p.reverse, nullptr};
  if (p.N == p.T * p.B) return steps;
  auto* begins = tile::scratch<int64_t>(queue, p.T + 1);
  int64_t row = 0;
  for (int64_t t = 0; t <= p.T; t += kBegins) {
    Begins part{begins + t, static_cast<int>(min_of(p.T + 1 - t, int64_t{kBegins})), {}};
    for (int i = 0; i < part.count; ++i) {
      part.values[i] = row;
      if (t + i < p.T) row += p.batch_sizes[t + i];
    }
    tile::launch_kernel(op, begins_kernel, dim3(1), kBegins, 0, queue, part);
  }
  steps.begins = begins;
  return steps;
}

// Numbers of the type that is stored, in the one computed in.
template <class W>
struct Widened {
  Compute<W>* to;
  const W* from;
  int64_t count;
};

template <class W>
__global__ void __launch_bounds__(kPointwiseThreads) widen_kernel(const Widened<W> p) {
  const int64_t index = pointwise_begin<1>();
  if (index < p.count) p.to[index] = tile::widen(p.from[index]);
}

template <class W>
const void* widened(const char* op, const void* from, int64_t count, const Queue& queue) {
  if constexpr (sizeof(W) > 2) {
    return from;
  } else {
    const Widened<W> p{tile::scratch<float>(queue, count), static_cast<const W*>(from), count};
    if (count > 0) launch_pointwise(op, widen_kernel<W>, p, count, 1, queue);
    return p.to;
  }
}

template <class F>
struct Copied {
  F* to;
  const F* from;  // null: zeros
  int64_t count;
};

template <class F>
__global__ void __launch_bounds__(kPointwiseThreads) copy_kernel(const Copied<F> p) {
  const int64_t index = pointwise_begin<1>();
  if (index < p.count) p.to[index] = p.from ? p.from[index] : F(0);
}

template <class F>
void copy_or_zero(const char* op, void* to, const void* from, int64_t count, const Queue& queue) {
  const Copied<F> p{static_cast<F*>(to), static_cast<const F*>(from), count};
  if (count > 0) launch_pointwise(op, copy_kernel<F>, p, count, 1, queue);
}

// The products around steps are of floats. Where inputs and weights are bf16, so are the results in
// the end: TF32 has three digits more.
inline Conv2dShape shape_of_rows(const Recurrent& p, int64_t rows, int64_t C, int64_t O) {
  Conv2dShape shape = shape_of_rows(p.dtype, rows, C, O);
  shape.rounded = p.stored == DType::bf16;
  return shape;
}

inline void multiply(const Recurrent& p, int64_t rows, int64_t C, int64_t O, const void* x,
                     const void* weight, const void* bias, void* y, int64_t y_row,
                     const Queue& queue) {
  Conv2d c{};
  static_cast<Conv2dShape&>(c) = shape_of_rows(p, rows, C, O);
  c.x = x, c.weight = weight, c.bias = bias, c.y = y;
  c.x_stride = {0, 1, 0, C}, c.w_stride = {C, 1, 0, 0}, c.y_stride = {0, 1, 0, y_row};
  c.activation = Activation::none;
  if (rows > 0) launch(c, queue);
}

// What the threads of a block make of the state's rows: `parts` neighbouring threads share a unit
// and kRows rows, each has every parts-th vector of them.
constexpr int kStepThreads = 256;

template <int kGates, int kRows, class F, class W>
__device__ __forceinline__ void multiply_state(F (&sums)[kGates][kRows], const W* weights,
                                               int64_t gate, const F* state, int state_row, int K,
                                               int parts, bool active) {
  constexpr int V = kVector<W>;
  const int part = threadIdx.x % parts;
  if (active) {
    for (int k = part * V; k < K; k += parts * V) {
      Pack<W, V> w[kGates];
#pragma unroll
      for (int g = 0; g < kGates; ++g) w[g] = tile::load<V>(weights + g * gate + k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto h = tile::load<V>(state + r * state_row + k);
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
#pragma unroll
          for (int v = 0; v < V; ++v) sums[g][r] += tile::widen(w[g].lanes[v]) * h.lanes[v];
        }
      }
    }
  }
  for (int distance = parts / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        sums[g][r] += __shfl_xor_sync(0xffffffffu, sums[g][r], distance);
      }
    }
  }
}

// Elements from row to row of states in shared memory.
template <class W>
__host__ __device__ constexpr int state_row(int K) {
  return tile::row_elements<kVector<W>, Compute<W>>(K);
}

// How a layer is split: `team` blocks of `units` hidden units each for `rows` rows of the batch,
// `tile` of them at a time.
struct TeamPlan {
  int team, units, slices, rows, tile, parts;
  int weight_row;  // elements from row to row of weights in shared memory
  size_t bytes;
};

constexpr int kRowsOfThread = 4;

// The smallest team whose blocks have room for weights of `gates` rows of K a unit; 0: none.
template <class W>
TeamPlan plan_team(int gates, int64_t H, int64_t B, int64_t K, int most_blocks) {
  TeamPlan plan{};
  if (K > tile::kMostShared) return plan;
  plan.tile = B == 1 ? 1 : 2 * kRowsOfThread;
  const int groups = B == 1 ? 1 : 2;
  const int64_t state = 2 * sizeof(Compute<W>) * plan.tile * state_row<W>(static_cast<int>(K));
  const int64_t chunks = ceil_div(K, kVector<W>);
  for (int64_t team = 1; team <= min_of(int64_t{most_blocks}, H); ++team) {
    const int64_t units = ceil_div(H, team);
    int parts = 1;  // as many as there are threads for, up to a warp
    while (parts < 32 && 2 * parts * units * groups <= kStepThreads) parts *= 2;
    // Rows of so many 16-byte chunks that those of eight neighbouring threads lie in other banks:
    // as many beyond a multiple of 8 as share a unit.
    const int64_t beyond = min_of(parts, 8);
    const int64_t row = beyond + ceil_div(max_of(chunks - beyond, int64_t{0}), 8) * 8;
    const int64_t bytes = state + 16 * gates * units * row;
    if (bytes > tile::kMostShared) continue;
    const int64_t slices = ceil_div(B, plan.tile);
    const int64_t at_once = team == 1 ? slices : min_of(slices, most_blocks / team);
    plan.team = static_cast<int>(team);
    plan.units = static_cast<int>(units);
    plan.parts = parts;
    plan.rows = static_cast<int>(ceil_div(slices, at_once) * plan.tile);
    plan.slices = static_cast<int>(ceil_div(B, plan.rows));
    plan.weight_row = static_cast<int>(row) * kVector<W>;
    plan.bytes = static_cast<size_t>(bytes);
    break;
  }
  return plan;
}

// All steps; only teams of several blocks have to run at once.
template <class All>
void launch_team(const char* op, void (*kernel)(All), All& a, const Queue& queue) {
  const TeamPlan& plan = a.plan;
  const dim3 grid = tile::blocks_for(op, int64_t{plan.team} * plan.slices, 1);
  if (plan.team == 1) {
    return tile::launch_kernel(op, kernel, grid, kStepThreads, plan.bytes, queue, a);
  }
  a.counters = tile::scratch<unsigned>(queue, plan.slices);
  copy_or_zero<unsigned>(op, a.counters, nullptr, plan.slices, queue);
  tile::launch_kernel<tile::Together::yes>(op, kernel, grid, kStepThreads, plan.bytes, queue, a);
}

}  // namespace torchext
