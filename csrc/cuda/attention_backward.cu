// Gradients of attention. With P = e^(scores - logsumexp) and dS = P * (grad_y * v^T - delta),
// delta being rows of grad_y * y (less grad_logsumexp); dropout's shares multiply grad_y * v^T, and
// P after that:
//   grad_v = P^T * grad_y, grad_k = dS^T * q * scale, grad_q = dS * k * scale, grad_mask = dS.
// One kernel, either way round, makes those of keys and values and those of queries: a warp has
// some rows of a side, and tiles of the other side's pass by. Sums are in an order of their own,
// always the same.
#include "attention.cuh"

namespace torchext {
namespace {

constexpr const char* kOp = "attention_backward";

// Rows of two tensors that are multiplied with the other side's: (q, grad_y) or (k, v).
template <class T>
struct Side {
  View<const T> x, y;
  int L;
};

template <class T>
struct Backward {
  using F = Compute<T>;
  Attended a;
  Side<T> queries, keys;
  const F *logsumexp, *delta;  // [matrix][Lq]
  View<T> grad_q, grad_k, grad_v;
  int group;  // matrices of queries that share one of keys
  BlockPlan plan;
};

// delta: eight lanes a row.
template <class T>
struct Delta {
  using F = Compute<T>;
  Attended a;
  View<const T> grad_y, y;
  const F* grad_logsumexp;
  F* delta;
};

constexpr int kRowLanes = 8;

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) delta_sums_kernel(const Delta<T> d) {
  using F = Compute<T>;
  const int64_t rows = d.a.matrices * d.a.Lq;
  const int64_t row = pointwise_begin<1>() / kRowLanes;
  F sum = 0;
  if (row < rows) {
    const auto index = static_cast<int>(row / d.a.Lq);
    const auto t = static_cast<int>(row - int64_t{index} * d.a.Lq);
    const T* grad = MatrixRowsAt<const T>(d.a, d.grad_y, index).at(t);
    const T* y = MatrixRowsAt<const T>(d.a, d.y, index).at(t);
    for (int c = threadIdx.x % kRowLanes * V; c < d.a.Dv; c += kRowLanes * V) {
      const auto of_grad = tile::load<V>(grad + c), of_y = tile::load<V>(y + c);
#pragma unroll
      for (int k = 0; k < V; ++k) sum += tile::widen(of_grad.lanes[k]) * tile::widen(of_y.lanes[k]);
    }
  }
  sum = tile::over_lanes<tile::Sum, kRowLanes>(sum);
  if (row >= rows || threadIdx.x % kRowLanes != 0) return;
  d.delta[row] = sum - (d.grad_logsumexp ? d.grad_logsumexp[row] : F(0));
}

// Shared memory: a warp's own rows of both tensors, stages of tiles, what multiply_sums() needs.
// Rows have whole steps of `out` columns.
template <class Warp, int kStep>
struct BackwardShared {
  using T = typename Warp::T;
  int x_width, y_width, x_row, y_row;
  static constexpr int kSpare = Warp::template kSpare<kStep>;

  __host__ __device__ BackwardShared(const Attended& a, int out)
      : x_width((a.D + out - 1) / out * out),
        y_width((a.Dv + out - 1) / out * out),
        x_row(row_of<Warp>(x_width)),
        y_row(row_of<Warp>(y_width)) {}
  __host__ __device__ int rows(int count) const { return count * (x_row + y_row); }
  __host__ __device__ int own() const { return rows(Warp::kRows); }
  __host__ __device__ int tile() const { return rows(kStep); }
  __host__ __device__ size_t bytes(int warps, int pack, int stages) const {
    return sizeof(T) *
           (size_t{1} * warps * pack * (own() + kSpare) + size_t{1} * pack * stages * tile());
  }
  // `count` rows of a side, those of x before those of y.
  __device__ __forceinline__ void copy(T* to, const Attended& a, const Side<T>& side, int index,
                                       int first, int count, int thread, int threads) const {
    copy_rows(to, x_row, MatrixRowsAt<const T>(a, side.x, index), first, count, side.L, a.D,
              x_width, thread, threads);
    copy_rows(to + count * x_row, y_row, MatrixRowsAt<const T>(a, side.y, index), first, count,
              side.L, a.Dv, y_width, thread, threads);
  }
};

// P (as dropout leaves it) and dS of `rows` own rows and `count` of a tile, 0 where there are none.
template <class Warp, int kStep, bool kMasked, bool kTurned>
struct Difference {
  using T = typename Warp::T;
  using F = typename Warp::F;
  using Tile = typename Warp::template Sums<kStep>;
  Tile p, ds;

  template <class Shared>
  __device__ __forceinline__ Difference(const Backward<T>& b, const Shared& layout, const T* own,
                                        const T* tile, int index, int m, int n, int rows,
                                        int count) {
    constexpr F unit = Exponential<T>::unit;
    const Attended& a = b.a;
    const Scores<T, kMasked, kTurned> scores(a, index);
    Warp::multiply(p, own, layout.x_row, tile, layout.x_row, whole_steps<Warp>(a.D), rows, count);
    scores.make(p, m, n);
    Warp::multiply(ds, own + Warp::kRows * layout.x_row, layout.y_row, tile + kStep * layout.x_row,
                   layout.y_row, whole_steps<Warp>(a.Dv), rows, count);
    const F* logsumexp = b.logsumexp + int64_t{index} * a.Lq;
    const F* delta = b.delta + int64_t{index} * a.Lq;
    constexpr int kQueries = kTurned ? Tile::kMine : Tile::kMyRows;
    F shift[kQueries], less[kQueries];
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const int query = scores.template query_of<Tile>(m, i, i);
      const F of_row = query < a.Lq ? logsumexp[query] : F(0);
      shift[i] = of_row == -static_cast<F>(INFINITY) ? F(0) : of_row * unit;  // saw no key: P = 0
      less[i] = query < a.Lq ? delta[query] : F(0);
    }
    const auto differ = [&](int r, int c, F share) {
      const int i = kTurned ? c : r;
      const bool inside = scores.template query_of<Tile>(m, r, c) < a.Lq &&
                          scores.template key_of<Tile>(n, r, c) < a.Lk;
      const F of_all = inside ? Exponential<T>::of(p.at(r, c) - shift[i]) : F(0);
      p.at(r, c) = of_all * share;
      ds.at(r, c) = inside ? of_all * (ds.at(r, c) * share - less[i]) : F(0);
    };
    if (kMasked && a.threshold != 0) {
      drop<Tile, kTurned, F>(a, index, m, n, differ);
      return;
    }
#pragma unroll
    for (int r = 0; r < Tile::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::kMine; ++c) differ(r, c, F(1));
    }
  }
};

// A causal mask hides whole blocks of so many keys, and nobody looks at them; in others that it
// hides what is no number stays none.
constexpr int kHidden = 128;
__device__ __forceinline__ int seen_from(int key) { return key / kHidden * kHidden; }
__device__ __forceinline__ int seen_to(int query) { return seen_from(query + kHidden - 1); }

// kOfKeys: gradients of keys and values, else of queries.
template <class Warp, int kStep, int kOut, bool kMasked, bool kOfKeys>
__global__ void __launch_bounds__(kMostThreads, 2)
    attention_backward_kernel(const Backward<typename Warp::T> b) {
  using T = typename Warp::T;
  using F = typename Warp::F;
  using Outputs = typename Warp::template Sums<kOut>;
  const Attended& a = b.a;
  const BlockPlan& plan = b.plan;
  const Side<T>&mine = kOfKeys ? b.keys : b.queries, &other = kOfKeys ? b.queries : b.keys;
  const int group = kOfKeys ? b.group : 1;
  const auto matrices = static_cast<int>(a.matrices / group);
  const BackwardShared<Warp, kStep> layout(a, kOut);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, threads = blockDim.x;
  const int pack = blockIdx.x / plan.blocks * plan.pack, packed = warp / plan.warps;
  const int index = (pack + packed) * group;  // the first, of which all have these keys
  const int block_row = blockIdx.x % plan.blocks * plan.warps * Warp::kRows;
  const int first = block_row + warp % plan.warps * Warp::kRows;
  const int rows = pack + packed < matrices ? min_of(mine.L - first, Warp::kRows) : 0;
  const int first_column = blockIdx.y * kOut;
  const int x_columns = min_of(a.D - first_column, kOut);
  const int y_columns = min_of(a.Dv - first_column, kOut);

  T* shared = tile::shared_array<T>();
  T* own = shared + warp * layout.own();
  T* tiles = shared + plan.warps * plan.pack * layout.own();
  T* spare = tiles + plan.pack * plan.stages * layout.tile() + warp * layout.kSpare;
  const auto tile_of = [&](int stage, int packed) {
    return tiles + (stage * plan.pack + packed) * layout.tile();
  };
  // The other side's rows that count, by steps; then those of the group's next matrix.
  const int begin = a.causal && kOfKeys ? min_of(seen_from(block_row), seen_from(other.L)) : 0;
  const int end = a.causal && !kOfKeys
                      ? min_of(other.L, seen_to(block_row + plan.warps * Warp::kRows))
                      : other.L;
  const int of_matrix = end > begin ? (end - begin + kStep - 1) / kStep : 0;
  const int steps = of_matrix * group;
  const auto copy = [&](int step, int stage) {
    const int which = step / of_matrix, from = begin + (step - which * of_matrix) * kStep;
    for (int i = 0; i < plan.pack && pack + i < matrices; ++i) {
      layout.copy(tile_of(stage, i), a, other, (pack + i) * group + which, from, kStep, threadIdx.x,
                  threads);
    }
  };
  if (rows > 0) layout.copy(own, a, mine, index, first, Warp::kRows, lane, 32);

  Outputs of_x, of_y;
  pass_tiles(steps, plan.stages, copy, [&](int step, int stage) {
    const int which = step / of_matrix, from = begin + (step - which * of_matrix) * kStep;
    const bool hidden =
        a.causal && (kOfKeys ? from + kStep <= min_of(seen_from(first), seen_from(other.L))
                             : from >= seen_to(first + Warp::kRows));
    if (rows <= 0 || hidden) return;
    const T* tile = tile_of(stage, packed);
    const int count = min_of(end - from, kStep);
    Difference<Warp, kStep, kMasked, kOfKeys> d(b, layout, own, tile, index + which,
                                                kOfKeys ? from : first, kOfKeys ? first : from,
                                                rows, count);
    if (kOfKeys && y_columns > 0) {
      Warp::multiply_sums(of_y, d.p, tile + kStep * layout.x_row + first_column, layout.y_row,
                          count, rows, y_columns, spare);
    }
    if (x_columns > 0) {
      Warp::multiply_sums(of_x, d.ds, tile + first_column, layout.x_row, count, rows, x_columns,
                          spare);
    }
  });
  if (rows <= 0) return;

  const auto scale = static_cast<F>(a.scale);
#pragma unroll
  for (int r = 0; r < Outputs::kMyRows; ++r) {
#pragma unroll
    for (int c = 0; c < Outputs::kMine; ++c) of_x.at(r, c) *= scale;
  }
  if (x_columns > 0) {
    store_rows<Warp>(of_x, own, layout.x_row, a, kOfKeys ? b.grad_k : b.grad_q, index, first, rows,
                     first_column, x_columns);
  }
  if (kOfKeys && y_columns > 0) {
    store_rows<Warp>(of_y, own + Warp::kRows * layout.x_row, layout.y_row, a, b.grad_v, index,
                     first, rows, first_column, y_columns);
  }
}

// The mask's gradient: a block has queries and a step of keys, and adds up what the matrices that
// share a mask's one make of them; in parts, which a second kernel adds.
template <class T>
struct MaskParts {
  Backward<T> b;
  int own[kMostLeads], shared[kMostLeads];  // sizes; 1 where they are the other's
  int others, of_split, splits, key_steps;
  Compute<T>* sums;  // [own matrix][split][Lq][Lk]

  // Matrix `other` of those that share mask matrix `mine`.
  __device__ __forceinline__ int sharing(int mine, int other) const {
    int index = 0, step = 1;
#pragma unroll 1
    for (int d = b.a.leads - 1; d >= 0; --d) {
      index += (mine % own[d] + other % shared[d]) * step;
      mine /= own[d];
      other /= shared[d];
      step *= b.a.lead[d];
    }
    return index;
  }
};

template <class Warp, int kStep>
__global__ void __launch_bounds__(kMostThreads, 2)
    mask_parts_kernel(const MaskParts<typename Warp::T> p) {
  using T = typename Warp::T;
  const Backward<T>& b = p.b;
  const Attended& a = b.a;
  const BackwardShared<Warp, kStep> layout(a, Warp::kStep);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto block = static_cast<int>(blockIdx.x);
  const int n = block % p.key_steps * kStep;
  block /= p.key_steps;
  const int block_row = block % b.plan.blocks * b.plan.warps * Warp::kRows;
  block /= b.plan.blocks;
  const int split = block % p.splits, mine = block / p.splits;
  const int m = block_row + warp * Warp::kRows;
  const int rows = min_of(a.Lq - m, Warp::kRows);
  const int begin = split * p.of_split, end = min_of(begin + p.of_split, p.others);

  T* shared = tile::shared_array<T>();
  const int stage_size = b.plan.warps * layout.own() + layout.tile();
  const auto copy = [&](int other, int stage) {
    const int index = p.sharing(mine, begin + other);
    T* to = shared + stage * stage_size;
    layout.copy(to + warp * layout.own(), a, b.queries, index, m, Warp::kRows, lane, 32);
    layout.copy(to + b.plan.warps * layout.own(), a, b.keys, index, n, kStep, threadIdx.x,
                blockDim.x);
  };
  typename Warp::template Sums<kStep> total;
  pass_tiles(end - begin, b.plan.stages, copy, [&](int other, int stage) {
    if (rows <= 0) return;
    const T* tiles = shared + stage * stage_size;
    Difference<Warp, kStep, true, false> d(
        b, layout, tiles + warp * layout.own(), tiles + b.plan.warps * layout.own(),
        p.sharing(mine, begin + other), m, n, rows, min_of(a.Lk - n, kStep));
#pragma unroll
    for (int r = 0; r < total.kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < total.kMine; ++c) total.at(r, c) += d.ds.at(r, c);
    }
  });
  auto* sums = p.sums + (int64_t{mine} * p.splits + split) * a.Lq * a.Lk;
#pragma unroll
  for (int r = 0; r < total.kMyRows; ++r) {
    const int query = m + total.row(r);
#pragma unroll
    for (int c = 0; c < total.kMine; ++c) {
      const int key = n + total.column(c);
      if (query < a.Lq && key < a.Lk) sums[int64_t{query} * a.Lk + key] = total.at(r, c);
    }
  }
}

// Of a mask that is broadcast over rows or columns, their sum.
template <class T, class M>
struct MaskSums {
  MaskParts<T> parts;
  Matrices stride;
  M* to;
  int rows, columns;
  int64_t count;
};

template <class T, class M>
__global__ void __launch_bounds__(kPointwiseThreads) mask_finish_kernel(const MaskSums<T, M> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.count) return;
  const Attended& a = p.parts.b.a;
  const auto key = static_cast<int>(index % p.columns);
  const int64_t row = index / p.columns;
  const auto query = static_cast<int>(row % p.rows), mine = static_cast<int>(row / p.rows);
  const int more_queries = p.rows == a.Lq ? 1 : a.Lq, more_keys = p.columns == a.Lk ? 1 : a.Lk;
  Compute<T> sum = 0;
  for (int split = 0; split < p.parts.splits; ++split) {
    const auto* sums = p.parts.sums + (int64_t{mine} * p.parts.splits + split) * a.Lq * a.Lk;
    for (int i = 0; i < more_queries; ++i) {
      for (int j = 0; j < more_keys; ++j) sum += sums[int64_t{query + i} * a.Lk + key + j];
    }
  }
  const int64_t at =
      a.begin(p.stride, p.parts.sharing(mine, 0)) + query * p.stride.row + key * p.stride.column;
  p.to[at] = tile::narrow<M>(static_cast<Compute<M>>(sum));
}

template <class T, class M>
void finish_mask(const AttentionBackward& p, const MaskParts<T>& parts, int64_t matrices,
                 const Queue& queue) {
  MaskSums<T, M> sums{parts,
                      view_of<T>(p, p.grad_mask, p.grad_mask_stride, 0).stride,
                      static_cast<M*>(p.grad_mask),
                      p.grad_mask_stride.row == 0 ? 1 : parts.b.a.Lq,
                      p.grad_mask_stride.column == 0 ? 1 : parts.b.a.Lk,
                      0};
  sums.count = matrices * sums.rows * sums.columns;
  if (sums.count > 0) {
    launch_pointwise(kOp, mask_finish_kernel<T, M>, sums, sums.count, 1, queue);
  }
}

template <class Warp, int kStep>
void differentiate_mask(const AttentionBackward& p, const Backward<typename Warp::T>& b,
                        const Queue& queue) {
  using T = typename Warp::T;
  MaskParts<T> parts{b, {}, {}, 1, 0, 0, 0, nullptr};
  int64_t matrices = 1;
  for (int d = 0, lead = 0; d < p.leads; ++d) {
    if (p.lead[d] == 1) continue;
    const bool shared = p.grad_mask_stride.lead[d] == 0;
    parts.own[lead] = shared ? 1 : b.a.lead[lead];
    parts.shared[lead] = shared ? b.a.lead[lead] : 1;
    matrices *= parts.own[lead];
    parts.others *= parts.shared[lead];
    ++lead;
  }
  const BackwardShared<Warp, kStep> layout(b.a, Warp::kStep);
  const auto bytes = [&](int warps, int, int stages) {
    return sizeof(T) * stages * (size_t{1} * warps * layout.own() + layout.tile());
  };
  // As if the others were one long side: two stages where there are any, one matrix a block.
  parts.b.plan = plan_blocks(kOp, matrices, p.Lq, Warp::kRows, parts.others + int64_t{1}, 1, bytes);
  parts.key_steps = static_cast<int>(ceil_div(p.Lk, kStep));
  const int64_t blocks = matrices * parts.b.plan.blocks * parts.key_steps;
  const int64_t wanted = max_of(2 * kEnoughBlocks / max_of(blocks, int64_t{1}), int64_t{1});
  parts.of_split = static_cast<int>(ceil_div(parts.others, min_of(wanted, int64_t{parts.others})));
  parts.splits = ceil_div(parts.others, parts.of_split);
  parts.sums = tile::scratch<Compute<T>>(queue, matrices * parts.splits * p.Lq * p.Lk);
  if (blocks > 0) {
    tile::launch_kernel(kOp, mask_parts_kernel<Warp, kStep>,
                        tile::blocks_for(kOp, blocks * parts.splits, 1), 32 * parts.b.plan.warps,
                        parts.b.plan.bytes, queue, parts);
  }
  if (p.mask_kind == Mask::f32) {
    finish_mask<T, float>(p, parts, matrices, queue);
  } else {
    finish_mask<T, T>(p, parts, matrices, queue);
  }
}

template <class Warp, int kStep, int kOut, bool kOfKeys>
void differentiate_side(const AttentionBackward& p, Backward<typename Warp::T>& b,
                        const Queue& queue) {
  const int64_t matrices = kOfKeys ? p.matrices / b.group : p.matrices;
  const int64_t mine = kOfKeys ? p.Lk : p.Lq, other = kOfKeys ? p.Lq * b.group : p.Lk;
  if (mine == 0) return;
  const BackwardShared<Warp, kStep> layout(b.a, kOut);
  b.plan = plan_blocks(
      kOp, matrices, mine, Warp::kRows, other, kStep,
      [&](int warps, int pack, int stages) { return layout.bytes(warps, pack, stages); });
  dim3 grid = tile::blocks_for(kOp, ceil_div(matrices, b.plan.pack) * b.plan.blocks, 1);
  grid.y = static_cast<unsigned>(ceil_div(kOfKeys ? max_of(p.D, p.Dv) : p.D, kOut));
  constexpr bool kExact = sizeof(typename Warp::T) > 2;  // then one kernel does
  const auto kernel = p.mask_kind != Mask::none || p.regions || p.threshold != 0
                          ? attention_backward_kernel<Warp, kStep, kOut, true, kOfKeys>
                          : attention_backward_kernel<Warp, kStep, kOut, kExact, kOfKeys>;
  tile::launch_kernel(kOp, kernel, grid, 32 * b.plan.warps * b.plan.pack, b.plan.bytes, queue, b);
}

template <class Warp, int kStep, int kOut>
void differentiate(const AttentionBackward& p, const Queue& queue) {
  using T = typename Warp::T;
  using F = Compute<T>;
  constexpr int V = kVector<T>;
  const Attended a = attended(kOp, p);
  const auto laid = [&](const void* data, const Matrices& stride, int64_t L, int64_t columns) {
    return laid_out<T>(kOp, p, a, data, stride, L, columns, queue);
  };
  Backward<T> b{};
  b.a = a;
  b.queries = {laid(p.q, p.q_stride, p.Lq, p.D), laid(p.grad_y, p.grad_y_stride, p.Lq, p.Dv), a.Lq};
  b.keys = {laid(p.k, p.k_stride, p.Lk, p.D), laid(p.v, p.v_stride, p.Lk, p.Dv), a.Lk};
  b.logsumexp = static_cast<const F*>(p.logsumexp);
  F* delta = tile::scratch<F>(queue, p.matrices * p.Lq);
  const Delta<T> sums{a, b.queries.y, laid(p.y, p.y_stride, p.Lq, p.Dv),
                      static_cast<const F*>(p.grad_logsumexp), delta};
  const int64_t lanes = p.matrices * p.Lq * kRowLanes;
  if (lanes > 0) launch_pointwise(kOp, delta_sums_kernel<T, V>, sums, lanes, 1, queue);
  b.delta = delta;
  b.grad_q = view_of<T>(p, static_cast<T*>(p.grad_q), p.grad_q_stride, p.D);
  b.grad_k = view_of<T>(p, static_cast<T*>(p.grad_k), p.grad_k_stride, p.D);
  b.grad_v = view_of<T>(p, static_cast<T*>(p.grad_v), p.grad_v_stride, p.Dv);
  b.group = static_cast<int>(p.lead[p.leads - 1]);
  differentiate_side<Warp, kStep, kOut, true>(p, b, queue);
  differentiate_side<Warp, kStep, kOut, false>(p, b, queue);
  if (p.grad_mask) differentiate_mask<Warp, kStep>(p, b, queue);
}

}  // namespace

void launch(const AttentionBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      using Warp = tile::TensorWarp<T, 1>;
      const int64_t columns = max_of(p.D, p.Dv);
      if (columns <= 32) return differentiate<Warp, 32, 32>(p, queue);
      if (columns <= 64) return differentiate<Warp, 32, 64>(p, queue);
      differentiate<Warp, 32, 128>(p, queue);
    } else {
      differentiate<tile::CoreWarp<T>, 64 / sizeof(T), 64>(p, queue);
    }
  });
}

}  // namespace torchext
