// attention: a warp has some queries, whose scores stay in registers; tiles of keys and values pass
// by, and each row keeps the maximum and the sum of its exponentials so far (online softmax).
#include "attention.cuh"

namespace torchext {
namespace {

template <class T>
struct Forward {
  Attended a;
  View<const T> q, k, v;
  View<T> y;
  Compute<T>* logsumexp;  // [matrix][Lq], or null
  BlockPlan plan;
};

// Shared memory: own rows of all warps, stages of keys and values, what multiply_sums() needs.
template <class Warp, int kKeys, int kOut>
struct ForwardShared {
  using T = typename Warp::T;
  int own_row, k_row;
  static constexpr int kVRow = row_of<Warp>(kOut);
  static constexpr int kSpare = Warp::template kSpare<kKeys>;

  __host__ __device__ explicit ForwardShared(int D)
      : own_row(row_of<Warp>(D > kOut ? D : kOut)), k_row(row_of<Warp>(D)) {}
  __host__ __device__ int own() const { return Warp::kRows * own_row; }
  __host__ __device__ int k_tile() const { return kKeys * k_row; }
  __host__ __device__ int stage() const { return kKeys * (k_row + kVRow); }
  __host__ __device__ size_t bytes(int warps, int pack, int stages) const {
    return sizeof(T) *
           (size_t{1} * warps * pack * (own() + kSpare) + size_t{1} * pack * stages * stage());
  }
};

// The rows' exponentials s = e^(s - maximum), their new maxima and sums; what came before keeps its
// share `keep`. Sums are of a thread's columns alone.
template <class Warp, class Sums, class F>
__device__ __forceinline__ void soften(Sums& s, F (&maximum)[Sums::kMyRows],
                                       F (&sum)[Sums::kMyRows], F (&keep)[Sums::kMyRows]) {
  using E = Exponential<typename Warp::T>;
  constexpr F kInfinity = static_cast<F>(INFINITY);
#pragma unroll
  for (int r = 0; r < Sums::kMyRows; ++r) {
    F most = maximum[r];
#pragma unroll
    for (int c = 0; c < Sums::kMine; ++c) most = tile::Maximum()(most, s.at(r, c));
    most = tile::over_lanes<tile::Maximum, Warp::kLanes>(most);  // a NaN comes back in the sum
    const F shift = most == -kInfinity ? F(0) : most;            // nothing seen yet: all is 0
    keep[r] = E::of(maximum[r] - shift);
    maximum[r] = most;
    F total = 0;
#pragma unroll
    for (int c = 0; c < Sums::kMine; ++c) {
      s.at(r, c) = E::of(s.at(r, c) - shift);
      total += s.at(r, c);
    }
    sum[r] = sum[r] * keep[r] + total;
  }
}

// Blocks of an SM: registers for the sums, and for a tile's mask on its way.
template <class Warp, int kOut, bool kMasked>
constexpr int kBlocks = kMasked                                       ? 2
                        : sizeof(typename Warp::T) == 2 && kOut == 32 ? 4
                                                                      : 3;

template <class Warp, int kKeys, int kOut, bool kMasked>
__global__ void __launch_bounds__(kMostThreads, (kBlocks<Warp, kOut, kMasked>))
    attention_kernel(const Forward<typename Warp::T> f) {
  using T = typename Warp::T;
  using F = typename Warp::F;
  using Tile = typename Warp::template Sums<kKeys>;
  using Outputs = typename Warp::template Sums<kOut>;
  constexpr F kInfinity = static_cast<F>(INFINITY);
  const Attended& a = f.a;
  const ForwardShared<Warp, kKeys, kOut> layout(a.D);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int pack = blockIdx.x / f.plan.blocks * f.plan.pack;  // the block's first matrix
  const int index = pack + warp / f.plan.warps;
  const int block_row = blockIdx.x % f.plan.blocks * f.plan.warps * Warp::kRows;
  const int first = block_row + warp % f.plan.warps * Warp::kRows;
  const int rows = index < a.matrices ? min_of(a.Lq - first, Warp::kRows) : 0;
  const int first_column = blockIdx.y * kOut, columns = min_of(a.Dv - first_column, kOut);
  const int depth = whole_steps<Warp>(a.D);

  T* shared = tile::shared_array<T>();
  T* own = shared + warp * layout.own();
  T* tiles = shared + f.plan.warps * f.plan.pack * layout.own();
  T* spare = tiles + f.plan.pack * f.plan.stages * layout.stage() + warp * layout.kSpare;
  const auto tile_of = [&](int stage, int packed) {
    return tiles + (stage * f.plan.pack + packed) * layout.stage();
  };
  const int end = a.causal ? min_of(a.Lk, block_row + f.plan.warps * Warp::kRows) : a.Lk;
  const auto copy = [&](int tile, int stage) {
    for (int i = 0; i < f.plan.pack && pack + i < a.matrices; ++i) {
      const MatrixRowsAt<const T> k(a, f.k, pack + i);
      MatrixRowsAt<const T> v(a, f.v, pack + i);
      v.data += first_column;
      T* to = tile_of(stage, i);
      const int key = tile * kKeys, threads = blockDim.x;
      copy_rows(to, layout.k_row, k, key, kKeys, a.Lk, a.D, depth, threadIdx.x, threads);
      copy_rows(to + layout.k_tile(), layout.kVRow, v, key, kKeys, a.Lk, columns, kOut, threadIdx.x,
                threads);
    }
  };
  if (rows > 0) {
    copy_rows(own, layout.own_row, MatrixRowsAt<const T>(a, f.q, index), first, Warp::kRows, a.Lq,
              a.D, depth, lane, 32);
  }

  const Scores<T, kMasked, false> scores(a, rows > 0 ? index : 0);
  Outputs o;
  F maximum[Tile::kMyRows], sum[Tile::kMyRows] = {};
#pragma unroll
  for (int r = 0; r < Tile::kMyRows; ++r) maximum[r] = -kInfinity;
  const int seen = a.causal ? min_of(a.Lk, first + Warp::kRows) : a.Lk;
  pass_tiles((end + kKeys - 1) / kKeys, f.plan.stages, copy, [&](int tile, int stage) {
    const int key = tile * kKeys;
    if (rows <= 0 || key >= seen) return;
    const T* k = tile_of(stage, warp / f.plan.warps);
    const int count = min_of(seen - key, kKeys);
    Tile s;
    Warp::multiply(s, own, layout.own_row, k, layout.k_row, depth, rows, count);
    scores.make(s, first, key);
    F keep[Tile::kMyRows];
    soften<Warp>(s, maximum, sum, keep);
    if (kMasked && a.threshold != 0) {
      drop<Tile, false, F>(a, index, first, key,
                           [&](int r, int c, F share) { s.at(r, c) *= share; });
    }
#pragma unroll
    for (int r = 0; r < Outputs::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Outputs::kMine; ++c) o.at(r, c) *= keep[r];
    }
    Warp::multiply_sums(o, s, k + layout.k_tile(), layout.kVRow, count, rows, columns, spare);
  });
  if (rows <= 0) return;

#pragma unroll
  for (int r = 0; r < Tile::kMyRows; ++r) {
    sum[r] = tile::over_lanes<tile::Sum, Warp::kLanes>(sum[r]);
    const bool none = sum[r] == 0;  // saw no key: y = 0
    const int row = Tile::row(r);
    if (f.logsumexp && row < rows && lane % Warp::kLanes == 0 && blockIdx.y == 0) {
      constexpr F unit = Exponential<T>::unit;
      f.logsumexp[int64_t{index} * a.Lq + first + row] =
          none ? -kInfinity : maximum[r] / unit + tile::log_of(sum[r]);
    }
    const F share = none ? F(1) : 1 / sum[r];
#pragma unroll
    for (int c = 0; c < Outputs::kMine; ++c) o.at(r, c) *= share;
  }
  store_rows<Warp>(o, own, layout.own_row, a, f.y, index, first, rows, first_column, columns);
}

template <class Warp, int kKeys, int kOut>
void attend(const Attention& p, const Queue& queue) {
  using T = typename Warp::T;
  const char* op = "attention";
  Forward<T> f{};
  f.a = attended(op, p);
  f.q = laid_out<T>(op, p, f.a, p.q, p.q_stride, p.Lq, p.D, queue);
  f.k = laid_out<T>(op, p, f.a, p.k, p.k_stride, p.Lk, p.D, queue);
  f.v = laid_out<T>(op, p, f.a, p.v, p.v_stride, p.Lk, p.Dv, queue);
  f.y = view_of<T>(p, static_cast<T*>(p.y), p.y_stride, p.Dv);
  f.logsumexp = static_cast<Compute<T>*>(p.logsumexp);
  const ForwardShared<Warp, kKeys, kOut> layout(f.a.D);
  f.plan = plan_blocks(
      op, p.matrices, p.Lq, Warp::kRows, p.Lk, kKeys,
      [&](int warps, int pack, int stages) { return layout.bytes(warps, pack, stages); });
  dim3 grid = tile::blocks_for(op, ceil_div(p.matrices, f.plan.pack) * f.plan.blocks, 1);
  grid.y = static_cast<unsigned>(max_of(ceil_div(p.Dv, kOut), int64_t{1}));
  constexpr bool kExact = sizeof(T) > 2;  // then one kernel does
  const auto kernel = p.mask_kind != Mask::none || p.regions || p.threshold != 0
                          ? attention_kernel<Warp, kKeys, kOut, true>
                          : attention_kernel<Warp, kKeys, kOut, kExact>;
  tile::launch_kernel(op, kernel, grid, 32 * f.plan.warps * f.plan.pack, f.plan.bytes, queue, f);
}

}  // namespace

void launch(const Attention& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (p.Dv <= 32) return attend<tile::TensorWarp<T, 1>, 64, 32>(p, queue);
      if (p.Dv <= 64) return attend<tile::TensorWarp<T, 2>, 32, 64>(p, queue);
      attend<tile::TensorWarp<T, 1>, 64, 128>(p, queue);
    } else {
      attend<tile::CoreWarp<T>, 128 / sizeof(T), 64>(p, queue);
    }
  });
}

}  // namespace torchext
