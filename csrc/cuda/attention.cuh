// What the kernels of attention share. A block has some warps, each with rows of its own (of q,
// say) in shared memory, while tiles of the other side's rows (of k and v) pass by. Rows are read
// in 16-byte chunks; tensors whose rows do not lie so are copied, once a call.
#pragma once

#include "../op/attention.h"
#include "philox.cuh"
#include "pointwise.cuh"
#include "tile/math.cuh"
#include "tile/queue.cuh"
#include "tile/warp_product.cuh"

namespace torchext {

constexpr int kMostWarps = 4, kMostThreads = 32 * kMostWarps;
constexpr int kEnoughBlocks = 256;  // for a large chip

// Exponentials, for 16-bit types of base 2: scores are in multiples of `unit`.
template <class T>
struct Exponential {
  using F = Compute<T>;
  static constexpr bool kBinary = sizeof(T) == 2;
  static constexpr F unit = kBinary ? F(1.4426950408889634) : F(1);
  __device__ __forceinline__ static F of(F x) {
    if constexpr (kBinary) return tile::fast_exp2(x);
    return tile::exp_of(x);
  }
};

// Matrices of a tensor, of which those of windows lie where window_rows says.
template <class T>
struct View {
  T* data;
  Matrices stride;
  bool in_windows, in_vectors;
};

struct Attended {
  int leads, lead[kMostLeads];  // those of more than one matrix
  int64_t matrices;
  int Lq, Lk, D, Dv;
  double scale;
  bool causal;
  Mask mask_kind;
  View<const void> mask;
  const int64_t* window_rows;
  const int32_t* regions;
  int heads, windows;
  uint32_t threshold;  // dropout, as ../op/attention.h says
  double share;
  uint64_t seed;

  __device__ __forceinline__ int64_t begin(const Matrices& m, int index) const {
    int64_t at = 0;
    auto left = static_cast<unsigned>(index);
#pragma unroll 1
    for (int d = leads - 1; d >= 0; --d) {
      const unsigned rest = left / static_cast<unsigned>(lead[d]);
      at += (left - rest * lead[d]) * m.lead[d];
      left = rest;
    }
    return at;
  }
  __device__ __forceinline__ int window(int index) const { return index / heads % windows; }
};

// Where the rows of one matrix are.
template <class T>
struct MatrixRowsAt {
  T* data;
  int64_t row;
  const int64_t* rows;  // null: one after another

  __device__ __forceinline__ MatrixRowsAt(const Attended& a, const View<T>& view, int index)
      : data(view.data + a.begin(view.stride, index)),
        row(view.stride.row),
        rows(view.in_windows ? a.window_rows + int64_t{a.window(index)} * a.Lq : nullptr) {}
  __device__ __forceinline__ T* at(int t) const { return data + (rows ? rows[t] : t) * row; }
};

// The same view without leads of one matrix, and whether its rows are whole aligned vectors.
template <class T, class Data>
View<Data> view_of(const AttentionShape& p, Data* data, const Matrices& stride, int64_t columns) {
  constexpr int V = kVector<T>;
  View<Data> view{data, {{}, stride.row, stride.column}, p.window_rows != nullptr, true};
  view.in_vectors = columns % V == 0 && stride.column == 1 && stride.row % V == 0 &&
                    tile::aligned_for<T, V>(data);
  int leads = 0;
  for (int d = 0; d < p.leads; ++d) {
    if (p.lead[d] == 1) continue;
    view.stride.lead[leads++] = stride.lead[d];
    view.in_vectors = view.in_vectors && stride.lead[d] % V == 0;
  }
  return view;
}

inline Attended attended(const char* op, const AttentionShape& p) {
  constexpr int64_t kMost = INT32_MAX - 4096;  // tiles go beyond the ends
  if (max_of(max_of(p.matrices, p.D), max_of(max_of(p.Lq, p.Lk), p.Dv)) > kMost) {
    throw std::runtime_error(std::string(op) + ": CUDA: got a size of 2^31 or more, expected less");
  }
  Attended a{};
  for (int d = 0; d < p.leads; ++d) {
    if (p.lead[d] != 1) a.lead[a.leads++] = static_cast<int>(p.lead[d]);
  }
  a.matrices = p.matrices;
  a.Lq = static_cast<int>(p.Lq), a.Lk = static_cast<int>(p.Lk);
  a.D = static_cast<int>(p.D), a.Dv = static_cast<int>(p.Dv);
  a.scale = p.scale;
  a.causal = p.causal;
  a.mask_kind = p.mask_kind;
  a.mask = view_of<float>(p, p.mask, p.mask_stride, 0);
  a.window_rows = p.window_rows, a.regions = p.regions;
  a.heads = static_cast<int>(p.heads), a.windows = static_cast<int>(p.windows);
  a.threshold = p.threshold, a.share = p.share, a.seed = p.seed;
  return a;
}

// Copies of matrices that do not lie well.

template <class T>
struct MatrixCopy {
  Attended a;
  View<const T> from;
  T* to;  // [matrix][L][vectors * V], of matrices that differ
  int lead[kMostLeads];
  int L, columns, vectors;
  int64_t count;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) copy_matrices_kernel(const MatrixCopy<T> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.count) return;
  const int64_t t_of_all = index / p.vectors;
  const int c = static_cast<int>(index - t_of_all * p.vectors) * V;
  auto own = static_cast<int>(t_of_all / p.L);
  const auto t = static_cast<int>(t_of_all - int64_t{own} * p.L);
  int matrix = 0, step = 1;  // the first of those that are alike
  for (int d = p.a.leads - 1; d >= 0; --d) {
    matrix += own % p.lead[d] * step;
    own /= p.lead[d];
    step *= p.a.lead[d];
  }
  const T* row = MatrixRowsAt<const T>(p.a, p.from, matrix).at(t);
  Pack<T, V> pack{};
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (c + k < p.columns) pack.lanes[k] = row[(c + k) * p.from.stride.column];
  }
  tile::store(p.to + index * V, pack);
}

// L rows of `columns`, where they lie or copied.
template <class T>
View<const T> laid_out(const char* op, const AttentionShape& p, const Attended& a, const void* data,
                       const Matrices& stride, int64_t L, int64_t columns, const Queue& queue) {
  constexpr int V = kVector<T>;
  const auto view = view_of<T>(p, static_cast<const T*>(data), stride, columns);
  if (view.in_vectors) return view;
  MatrixCopy<T> copy{a, view, nullptr, {}, static_cast<int>(L), static_cast<int>(columns), 0, 0};
  copy.vectors = static_cast<int>(ceil_div(columns, V));
  View<const T> to{nullptr, {{}, int64_t{copy.vectors} * V, 1}, false, true};
  int64_t rows = L;
  for (int d = a.leads - 1; d >= 0; --d) {
    // Matrices of windows lie apart though their strides don't say so.
    const bool alike = view.stride.lead[d] == 0 && !view.in_windows;
    copy.lead[d] = alike ? 1 : a.lead[d];
    to.stride.lead[d] = alike ? 0 : rows * to.stride.row;
    rows *= copy.lead[d];
  }
  copy.count = rows * copy.vectors;
  to.data = copy.to = tile::scratch<T>(queue, copy.count * V);
  if (copy.count > 0) {
    launch_pointwise(op, copy_matrices_kernel<T, V>, copy, copy.count, 1, queue);
  }
  return to;
}

// Into shared memory: rows [first, first + count), zeros from row L and from column `columns` on;
// each has `width` elements, whole chunks.
template <class T>
__device__ __forceinline__ void copy_rows(T* to, int to_row, const MatrixRowsAt<const T>& from,
                                          int first, int count, int L, int columns, int width,
                                          int thread, int threads) {
  constexpr int V = kVector<T>;
  const int chunks = width / V;
#pragma unroll 1  // copies are on their way at once anyhow
  for (int i = thread; i < count * chunks; i += threads) {
    const int r = i / chunks, c = (i - r * chunks) * V;
    const bool inside = first + r < L && c < columns;
    tile::copy_async(to + r * to_row + c, inside ? from.at(first + r) + c : nullptr);
  }
}

// Columns of rows in shared memory of which `columns` count.
template <class Warp>
__host__ __device__ constexpr int whole_steps(int columns) {
  return (columns + Warp::kStep - 1) / Warp::kStep * Warp::kStep;
}
template <class Warp>
__host__ __device__ constexpr int row_of(int columns) {
  return tile::row_elements<Warp::kStep, typename Warp::T>(columns);
}

// What makes scores of sums: rows are queries from `m` on and columns keys from `n` on, or the
// other way round. Masks take registers: kMasked is whether there is any but a causal one.
template <class T, bool kMasked, bool kTurned>
struct Scores {
  using F = Compute<T>;
  static constexpr F kInfinity = static_cast<F>(INFINITY);
  const Attended& a;
  F scale;
  int64_t mask;
  const int32_t* region;

  __device__ __forceinline__ Scores(const Attended& a, int index)
      : a(a),
        scale(static_cast<F>(a.scale) * Exponential<T>::unit),
        mask(kMasked && a.mask_kind != Mask::none ? a.begin(a.mask.stride, index) : 0),
        region(kMasked && a.regions ? a.regions + int64_t{a.window(index)} * a.Lq : nullptr) {}

  __device__ __forceinline__ static F added(float x) { return x * Exponential<T>::unit; }
  __device__ __forceinline__ static F added(double x) { return static_cast<F>(x); }
  __device__ __forceinline__ static F added(bool seen) { return seen ? F(0) : -kInfinity; }
  template <class M>
  __device__ __forceinline__ static F added(M x) {
    return added(tile::widen(x));
  }

  template <class Sums>
  __device__ __forceinline__ static int query_of(int m, int r, int c) {
    return m + (kTurned ? Sums::column(c) : Sums::row(r));
  }
  template <class Sums>
  __device__ __forceinline__ static int key_of(int n, int r, int c) {
    return n + (kTurned ? Sums::row(r) : Sums::column(c));
  }
  // kBeside: keys lie side by side.
  template <class M, bool kBeside, class Sums>
  __device__ __forceinline__ void add(Sums& s, int m, int n) const {
    const int64_t step = kBeside ? 1 : a.mask.stride.column;
    const M* from = static_cast<const M*>(a.mask.data) + mask;
#pragma unroll
    for (int r = 0; r < Sums::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums::kMine; ++c) {
        const int query = query_of<Sums>(m, r, c), key = key_of<Sums>(n, r, c);
        if (query >= a.Lq || key >= a.Lk) continue;
        s.at(r, c) += added(from[query * a.mask.stride.row + key * step]);
      }
    }
  }
  template <class M, class Sums>
  __device__ __forceinline__ void add_mask(Sums& s, int m, int n) const {
    if (!kTurned && a.mask.stride.column == 1) {
      add<M, true>(s, m, n);
    } else {
      add<M, false>(s, m, n);
    }
  }
  template <class Sums>
  __device__ __forceinline__ void add_regions(Sums& s, int m, int n) const {
    int of_row[Sums::kMyRows], of_column[Sums::kMine];
    const int row = kTurned ? n : m, column = kTurned ? m : n;
#pragma unroll
    for (int r = 0; r < Sums::kMyRows; ++r) {
      of_row[r] = region[min_of(row + Sums::row(r), a.Lq - 1)];
    }
#pragma unroll
    for (int c = 0; c < Sums::kMine; ++c) {
      of_column[c] = region[min_of(column + Sums::column(c), a.Lq - 1)];
    }
#pragma unroll
    for (int r = 0; r < Sums::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums::kMine; ++c) {
        if (of_row[r] != of_column[c]) s.at(r, c) += added(F(-100));
      }
    }
  }

  template <class Sums>
  __device__ __forceinline__ void add_masks(Sums& s, int m, int n) const {
    switch (a.mask_kind) {
      case Mask::none:
        break;
      case Mask::boolean:
        add_mask<bool>(s, m, n);
        break;
      case Mask::as_query:
        if constexpr (sizeof(T) != sizeof(float)) {
          add_mask<T>(s, m, n);
          break;
        }
        [[fallthrough]];
      case Mask::f32:
        add_mask<float>(s, m, n);
        break;
    }
    if (region) add_regions(s, m, n);
  }

  // -inf beyond the last key.
  template <class Sums>
  __device__ __forceinline__ void make(Sums& s, int m, int n) const {
#pragma unroll
    for (int r = 0; r < Sums::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums::kMine; ++c) s.at(r, c) *= scale;
    }
    if constexpr (kMasked) add_masks(s, m, n);
#pragma unroll
    for (int r = 0; r < Sums::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums::kMine; ++c) {
        const int key = key_of<Sums>(n, r, c);
        // Added, as torch does: NaN stays NaN.
        if (a.causal && key > query_of<Sums>(m, r, c)) s.at(r, c) -= kInfinity;
        if (key >= a.Lk) s.at(r, c) = -kInfinity;
      }
    }
  }
};

// What dropout leaves of the probabilities of a tile: use(r, c, share) for all of a thread's.
template <class Sums, bool kTurned, class F, class Use>
__device__ __forceinline__ void drop(const Attended& a, int index, int m, int n, const Use& use) {
  const int64_t row = int64_t{index} * a.Lq;
  const auto share = static_cast<F>(a.share);
  const auto share_of = [&](uint32_t word) { return word >= a.threshold ? share : F(0); };
  // Tensor cores leave a thread all that a counter decides on, or every second one.
  constexpr int kRows = Sums::kPieces && kTurned ? 2 : 1;
  constexpr int kColumns = Sums::kPieces && !kTurned ? 4 : 1;
#pragma unroll
  for (int r = 0; r < Sums::kMyRows; r += kRows) {
#pragma unroll
    for (int c = 0; c < Sums::kMine; c += kColumns) {
      const int query = m + (kTurned ? Sums::column(c) : Sums::row(r));
      const int key = n + (kTurned ? Sums::row(r) : Sums::column(c));
      const Words words = philox(counter_of(row + query, key, a.Lk), a.seed);
      const uint32_t near = words.word[0], far = words.word[2];
      const uint32_t own_near = key % 2 ? words.word[1] : near;
      const uint32_t own_far = key % 2 ? words.word[3] : far;
      if constexpr (kColumns == 4) {
        use(r, c, share_of(near)), use(r, c + 1, share_of(words.word[1]));
        use(r, c + 2, share_of(far)), use(r, c + 3, share_of(words.word[3]));
      } else if constexpr (kRows == 2) {
        use(r, c, share_of(own_near)), use(r + 1, c, share_of(own_far));
      } else {
        use(r, c, share_of(key % 16 < 8 ? own_near : own_far));
      }
    }
  }
}

// A warp's sums as rows [first, first + rows) of a matrix, from `first_column` on, by way of the
// warp's own rows of shared memory.
template <class Warp, class Sums>
__device__ __forceinline__ void store_rows(Sums& sums, typename Warp::T* own, int own_row,
                                           const Attended& a, const View<typename Warp::T>& view,
                                           int index, int first, int rows, int first_column,
                                           int columns) {
  using T = typename Warp::T;
  constexpr int V = kVector<T>;
  const MatrixRowsAt<T> to(a, view, index);
  const int lane = threadIdx.x % 32, vectors = (columns + V - 1) / V;
  __syncwarp();  // whoever reads what was there
  Warp::put(sums, own, own_row);
  __syncwarp();
  for (int i = lane; i < rows * vectors; i += 32) {
    const int r = i / vectors, c = (i - r * vectors) * V;
    const auto pack = tile::load<V>(own + r * own_row + c);
    T* row = to.at(first + r);
    if (view.in_vectors) {
      tile::store(row + first_column + c, pack);
      continue;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (c + k < columns) row[(first_column + c + k) * view.stride.column] = pack.lanes[k];
    }
  }
}

// `count` tiles pass by: copy(tile, stage) brings one, work(tile, stage) has all of it. Where there
// are two stages the next is on its way meanwhile.
template <class Copy, class Work>
__device__ __forceinline__ void pass_tiles(int count, int stages, const Copy& copy,
                                           const Work& work) {
  const auto bring = [&](int tile, int stage) {
    if (tile < count) copy(tile, stage);
    tile::commit_copies();
  };
  bring(0, 0);
  int stage = 0;
  for (int tile = 0; tile < count; ++tile) {
    tile::wait_for_copies<0>();
    __syncthreads();  // everybody's copies; the tile before was multiplied
    if (stages == 2) bring(tile + 1, 1 - stage);
    work(tile, stage);
    if (stages == 2) {
      stage = 1 - stage;
    } else if (tile + 1 < count) {
      __syncthreads();  // the tile was multiplied
      bring(tile + 1, 0);
    }
  }
  tile::wait_for_copies<0>();  // of the block's own rows, where no tile came
}

// Rows that warps keep in shared memory, and the tiles that pass by.
struct BlockPlan {
  int warps;  // of a matrix, in a block
  int pack;   // matrices of a block
  int stages;
  int blocks;  // of a matrix
  size_t bytes;
};

// bytes_of(warps, pack, stages) of shared memory for `rows` rows, `kRows` of them to a warp, which
// tiles of `step` of the other side's `length` pass.
template <class Bytes>
BlockPlan plan_blocks(const char* op, int64_t matrices, int64_t rows, int kRows, int64_t length,
                      int step, const Bytes& bytes_of) {
  constexpr size_t kMost = tile::kMostShared;
  const auto all = static_cast<int>(max_of(ceil_div(rows, kRows), int64_t{1}));
  BlockPlan plan{};
  plan.stages = length > step ? 2 : 1;
  int most = kMostWarps;
  while (most > 1 && matrices * ceil_div(all, most) < kEnoughBlocks) most /= 2;
  for (;;) {
    plan.blocks = ceil_div(all, most);
    plan.warps = ceil_div(all, plan.blocks);
    plan.pack = plan.stages == 1 && plan.blocks == 1 ? most / plan.warps : 1;
    while (plan.pack > 1 && bytes_of(plan.warps, plan.pack, plan.stages) > kMost) --plan.pack;
    plan.bytes = bytes_of(plan.warps, plan.pack, plan.stages);
    if (plan.bytes <= kMost) return plan;
    if (plan.stages == 2) {
      plan.stages = 1;
    } else if (most > 1) {
      most /= 2;
    } else {
      throw std::runtime_error(std::string(op) + ": CUDA: got rows of " +
                               std::to_string(plan.bytes) +
                               " bytes with their tiles, expected at most " +
                               std::to_string(kMost) + ": fewer channels");
    }
  }
}

}  // namespace torchext
