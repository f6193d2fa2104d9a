// Tiles of two operands in shared memory, and what a block multiplies of them. An operand's tile is
// either [x][k], rows of x with the k's of a step side by side, or [k][x]; in both its 16-byte
// chunks are swizzled so that eight neighbouring rows lie in different banks.
#pragma once

#include "mma.cuh"
#include "pack.cuh"

namespace torchext::tile {

enum class Order { x_rows, k_rows };

template <class T, Order kOrder, int kX, int kK>
struct MatrixTile {
  static constexpr int V = 16 / sizeof(T);
  static constexpr bool kXRows = kOrder == Order::x_rows;
  static constexpr int kRows = kXRows ? kX : kK, kChunks = (kXRows ? kK : kX) / V;
  static constexpr int kElements = kX * kK;
  static_assert(kChunks == 4 || kChunks % 8 == 0, "the swizzles below");

  // Where the chunk begins.
  __device__ __forceinline__ static int at(int row, int chunk) {
    // Of floats four neighbouring rows are read at once, of each two chunks.
    constexpr bool kByFours = sizeof(T) == 4 && !kXRows;
    const int by = kChunks == 4 ? row >> 1 & 3 : kByFours ? (row & 3) << 1 : row & 7;
    const int swizzled = chunk ^ by;
    return (row * kChunks + swizzled) * V;
  }
  __device__ __forceinline__ static T get(const T* tile, int x, int k) {
    const int row = kXRows ? x : k, column = kXRows ? k : x;
    return tile[at(row, column / V) + column % V];
  }
};

// A block's product by tensor cores, T of 16 bits or floats rounded to TF32: kWarpsM x kWarpsN
// warps, each of 16-row and 8-column pieces.
template <class T_, int kM_, int kN_, int kWarpsM, int kWarpsN>
struct TensorCores {
  using T = T_;
  using F = float;
  static constexpr bool kTensor = true;
  static constexpr int kM = kM_, kN = kN_, kK = 64 / sizeof(T);
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN, kBlocks = 0;  // blocks of an SM, at least
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kPiecesM = kWarpM / 16, kPiecesN = kWarpN / 8;
  static_assert(kPiecesN % 2 == 0, "ldmatrix brings two pieces of b at once");
  float sums[kPiecesM][kPiecesN][4] = {};

  // Four matrices of 8 rows of x by a chunk of k: from x on and 8 more, two chunks from `chunk` on,
  // which come first or last.
  template <class Tile, bool kRowsFirst>
  __device__ __forceinline__ static void read(uint32_t (&to)[4], const T* tile, int x, int chunk) {
    const int lane = threadIdx.x % 32, row = lane % 8;
    const int first = lane / 8 % 2, second = lane / 16;
    const int by_x = kRowsFirst ? first : second, by_k = kRowsFirst ? second : first;
    if constexpr (Tile::kXRows) {
      load_matrices<false>(to, tile + Tile::at(x + 8 * by_x + row, chunk + by_k));
    } else if constexpr (sizeof(T) == 2) {
      load_matrices<true>(to, tile + Tile::at(8 * (chunk + by_k) + row, x / 8 + by_x));
    } else {  // ldmatrix turns 16-bit numbers only
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int more_x = kRowsFirst ? i % 2 : i / 2, more_k = kRowsFirst ? i / 2 : i % 2;
        const T number =
            Tile::get(tile, x + 8 * more_x + lane / 4, 4 * (chunk + more_k) + lane % 4);
        __builtin_memcpy(&to[i], &number, sizeof number);
      }
    }
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = to_tf32(to[i]);
    }
  }

  template <class TileA, class TileB>
  __device__ __forceinline__ void add(const T* a, const T* b) {
    const int warp = threadIdx.x / 32;
    const int m = warp % kWarpsM * kWarpM, n = warp / kWarpsM * kWarpN;
#pragma unroll
    for (int chunk = 0; chunk < 4; chunk += 2) {
      uint32_t of_a[kPiecesM][4], of_b[kPiecesN / 2][4];
#pragma unroll
      for (int i = 0; i < kPiecesM; ++i) read<TileA, true>(of_a[i], a, m + 16 * i, chunk);
#pragma unroll
      for (int j = 0; j < kPiecesN / 2; ++j) read<TileB, false>(of_b[j], b, n + 16 * j, chunk);
#pragma unroll
      for (int i = 0; i < kPiecesM; ++i) {
#pragma unroll
        for (int j = 0; j < kPiecesN; ++j) {
          multiply_add(T{}, sums[i][j], of_a[i], of_b[j / 2] + j % 2 * 2);
        }
      }
    }
  }

  // The sums leave in bands of rows, by way of shared memory.
  static constexpr int kBands = kPiecesM, kBandRows = 16 * kWarpsM;
  // Four rows that are written at once begin in other banks; so do chunks of 4 that are read two by
  // two: those of every second 32 numbers change places.
  static constexpr int kBandStride = kN + 8;
  __device__ __forceinline__ static int band_at(int row, int column) {
    return row * kBandStride + (column ^ ((row * kN + column) >> 3 & 4));
  }
  __device__ __forceinline__ void put(int band, float* shared) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp % kWarpsM * 16 + lane / 4;
    const int column = warp / kWarpsM * kWarpN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kPiecesM; ++i) {  // registers have no index at run time
      if (i != band) continue;
#pragma unroll
      for (int j = 0; j < kPiecesN; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Pack<float, 2> two{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
          store(shared + band_at(row + 8 * half, column + 8 * j), two);
        }
      }
    }
  }
  __device__ __forceinline__ static int row_of(int band, int row) {
    return row / 16 * kWarpM + 16 * band + row % 16;
  }
};

// The same by multiplications and additions of threads, for numbers that are to be exact: 4 x 4
// sums a thread, 16 rows and columns apart.
template <class T_>
struct Cores {
  using T = T_;
  using F = T_;
  static constexpr bool kTensor = false;
  static constexpr int kM = 64, kN = 64, kK = 64 / sizeof(T), kThreads = 256, kBlocks = 2;
  static constexpr int V = 16 / sizeof(T);
  F sums[4][4] = {};

  template <class Tile>
  __device__ __forceinline__ static void read(const T* tile, int first, int k, F (&values)[4][V]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int x = first + 16 * i;
      if (Tile::kXRows) {
        const auto pack = load<V>(tile + Tile::at(x, k / V));
#pragma unroll
        for (int v = 0; v < V; ++v) values[i][v] = pack.lanes[v];
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) values[i][v] = Tile::get(tile, x, k + v);
      }
    }
  }

  template <class TileA, class TileB>
  __device__ __forceinline__ void add(const T* a, const T* b) {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll
    for (int k = 0; k < kK; k += V) {
      F of_a[4][V], of_b[4][V];
      read<TileA>(a, m, k, of_a);
      read<TileB>(b, n, k, of_b);
#pragma unroll
      for (int v = 0; v < V; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] += of_a[i][v] * of_b[j][v];
        }
      }
    }
  }

  static constexpr int kBands = 4, kBandRows = 16, kBandStride = kN + V;
  __device__ __forceinline__ static int band_at(int row, int column) {
    return row * kBandStride + column;
  }
  __device__ __forceinline__ void put(int band, F* shared) const {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i != band) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) shared[band_at(m, n + 16 * j)] = sums[i][j];
    }
  }
  __device__ __forceinline__ static int row_of(int band, int row) { return 16 * band + row; }
};

}  // namespace torchext::tile
