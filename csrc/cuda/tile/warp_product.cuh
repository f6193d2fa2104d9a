// Products of a warp: small matrices whose rows lie in shared memory, sums that stay in registers.
// TensorWarp is for numbers of 16 bits, CoreWarp for those that are to be exact. Both have
//   kRows       rows of sums
//   Sums<N>     kRows x N sums; at(r, c) is a thread's, in row(r) and column(c); kPieces: which are
//               where mma.sync leaves them
//   kLanes      neighbouring lanes that share their rows
//   multiply()  sums += a * b^T, of rows in shared memory
//   multiply_sums()  sums += p * b, of sums p (rounded to the type of b), by way of `spare` shared
//                    memory of the warp's: kSpare<columns of p> elements
//   put()       sums as rows of shared memory
// Rows in shared memory have an odd number of 16-byte chunks: eight that follow each other, or
// every eighth, lie in different banks.
#pragma once

#include "mma.cuh"
#include "pack.cuh"
#include "reduce.cuh"

namespace torchext::tile {

// Elements from row to row, of `columns` rounded up to whole steps.
template <int kStep, class T>
__host__ __device__ constexpr int row_elements(int columns) {
  constexpr int V = 16 / sizeof(T);
  return (((columns + kStep - 1) / kStep * kStep / V) | 1) * V;
}

template <class T_, int kTiles>
struct TensorWarp {
  using T = T_;
  using F = float;
  static constexpr int kRows = 16 * kTiles, kLanes = 4, kStep = 16;
  template <int kDepth>
  static constexpr int kSpare = 0;

  template <int kColumns_>
  struct Sums {
    static constexpr bool kPieces = true;
    static constexpr int kColumns = kColumns_, kMine = kColumns / 4, kMyRows = 2 * kTiles;
    static_assert(kColumns % 16 == 0, "pieces of b come in pairs");
    F of[kTiles][kColumns / 8][4] = {};

    __device__ __forceinline__ F& at(int r, int c) { return of[r / 2][c / 2][r % 2 * 2 + c % 2]; }
    __device__ __forceinline__ static int row(int r) {
      return r / 2 * 16 + r % 2 * 8 + threadIdx.x % 32 / 4;
    }
    __device__ __forceinline__ static int column(int c) {
      return c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2;
    }
  };

  // Of a's first `rows` and b's first `columns`, as far as whole pieces go.
  template <int kColumns>
  __device__ __forceinline__ static void multiply(Sums<kColumns>& sums, const T* a, int a_row,
                                                  const T* b, int b_row, int depth, int rows,
                                                  int columns) {
    const int lane = threadIdx.x % 32, row = lane % 8, low = lane / 8 % 2, high = lane / 16;
    for (int k = 0; k < depth; k += 16) {
      uint32_t of_a[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {  // matrices (m, k), (m + 8, k), (m, k + 8), ...
        if (16 * i < rows) {
          load_matrices<false>(of_a[i], a + (16 * i + 8 * low + row) * a_row + k + 8 * high);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns / 16; ++j) {  // (n, k), (n, k + 8), (n + 8, k), ...
        if (16 * j >= columns) break;
        uint32_t of_b[4];
        load_matrices<false>(of_b, b + (16 * j + 8 * high + row) * b_row + k + 8 * low);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (16 * i >= rows) break;
          multiply_add(T{}, sums.of[i][2 * j], of_a[i], of_b);
          if (16 * j + 8 < columns) multiply_add(T{}, sums.of[i][2 * j + 1], of_a[i], of_b + 2);
        }
      }
    }
  }

  // Of p's first `depth` columns and b's first `columns`.
  template <int kColumns, int kDepth>
  __device__ __forceinline__ static void multiply_sums(Sums<kColumns>& sums, const Sums<kDepth>& p,
                                                       const T* b, int b_row, int depth, int rows,
                                                       int columns, T*) {
    const int lane = threadIdx.x % 32, row = lane % 8, low = lane / 8 % 2, high = lane / 16;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      if (k >= depth) break;
      uint32_t of_p[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {  // sums lie as the next product wants its factors
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          const F* two = p.of[i][k / 8 + x / 2] + x % 2 * 2;
          of_p[i][x] = pair(two[0], two[1]);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns / 16; ++j) {  // (k, n), (k + 8, n), (k, n + 8), ...
        if (16 * j >= columns) break;
        uint32_t of_b[4];
        load_matrices<true>(of_b, b + (k + 8 * low + row) * b_row + 16 * j + 8 * high);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (16 * i >= rows) break;
          multiply_add(T{}, sums.of[i][2 * j], of_p[i], of_b);
          if (16 * j + 8 < columns) multiply_add(T{}, sums.of[i][2 * j + 1], of_p[i], of_b + 2);
        }
      }
    }
  }

  template <int kColumns>
  __device__ __forceinline__ static void put(Sums<kColumns>& sums, T* to, int to_row) {
#pragma unroll
    for (int r = 0; r < Sums<kColumns>::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums<kColumns>::kMine; c += 2) {
        const F two[2] = {sums.at(r, c), sums.at(r, c + 1)};
        store_narrow(to + sums.row(r) * to_row + sums.column(c), two);
      }
    }
  }

 private:
  __device__ __forceinline__ static uint32_t pair(F low, F high) {
    const Pack<T, 2> two{{narrow<T>(low), narrow<T>(high)}};
    uint32_t word;
    __builtin_memcpy(&word, &two, sizeof word);
    return word;
  }
};

// By multiplications and additions of threads: 4 x 8 lanes, rows 4 apart and columns 8.
template <class T_>
struct CoreWarp {
  using T = T_;
  using F = T_;
  static constexpr int kRows = 64 / sizeof(T), kLanes = 8, kStep = 16 / sizeof(T);
  template <int kDepth>
  static constexpr int kSpare = kRows * row_elements<kStep, T>(kDepth);

  template <int kColumns_>
  struct Sums {
    static constexpr bool kPieces = false;
    static constexpr int kColumns = kColumns_, kMine = kColumns / 8, kMyRows = kRows / 4;
    F of[kMyRows][kMine] = {};

    __device__ __forceinline__ F& at(int r, int c) { return of[r][c]; }
    __device__ __forceinline__ static int row(int r) { return threadIdx.x % 32 / 8 + 4 * r; }
    __device__ __forceinline__ static int column(int c) { return threadIdx.x % 8 + 8 * c; }
  };

  template <int kColumns>
  __device__ __forceinline__ static void multiply(Sums<kColumns>& sums, const T* a, int a_row,
                                                  const T* b, int b_row, int depth, int, int) {
    using S = Sums<kColumns>;
    for (int k = 0; k < depth; k += kStep) {
      Pack<T, kStep> of_a[S::kMyRows];
#pragma unroll
      for (int r = 0; r < S::kMyRows; ++r) of_a[r] = load<kStep>(a + S::row(r) * a_row + k);
#pragma unroll
      for (int c = 0; c < S::kMine; ++c) {
        const auto of_b = load<kStep>(b + S::column(c) * b_row + k);
#pragma unroll
        for (int r = 0; r < S::kMyRows; ++r) {
#pragma unroll
          for (int x = 0; x < kStep; ++x) sums.of[r][c] += of_a[r].lanes[x] * of_b.lanes[x];
        }
      }
    }
  }

  template <int kColumns, int kDepth>
  __device__ __forceinline__ static void multiply_sums(Sums<kColumns>& sums, Sums<kDepth>& p,
                                                       const T* b, int b_row, int depth, int, int,
                                                       T* spare) {
    using S = Sums<kColumns>;
    constexpr int kRow = row_elements<kStep, T>(kDepth);
    __syncwarp();  // whoever reads what was there
    put(p, spare, kRow);
    __syncwarp();
    for (int k = 0; k < depth; k += kStep) {
      Pack<T, kStep> of_p[S::kMyRows];
#pragma unroll
      for (int r = 0; r < S::kMyRows; ++r) of_p[r] = load<kStep>(spare + S::row(r) * kRow + k);
#pragma unroll
      for (int x = 0; x < kStep; ++x) {
#pragma unroll
        for (int c = 0; c < S::kMine; ++c) {
          const T of_b = b[(k + x) * b_row + S::column(c)];
#pragma unroll
          for (int r = 0; r < S::kMyRows; ++r) sums.of[r][c] += of_p[r].lanes[x] * of_b;
        }
      }
    }
  }

  template <int kColumns>
  __device__ __forceinline__ static void put(Sums<kColumns>& sums, T* to, int to_row) {
#pragma unroll
    for (int r = 0; r < Sums<kColumns>::kMyRows; ++r) {
#pragma unroll
      for (int c = 0; c < Sums<kColumns>::kMine; ++c) {
        to[sums.row(r) * to_row + sums.column(c)] = sums.at(r, c);
      }
    }
  }
};

}  // namespace torchext::tile
