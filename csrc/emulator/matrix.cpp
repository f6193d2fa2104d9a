// ldmatrix and mma.sync. With g = lane / 4, t = lane % 4: register i of A holds row g + 8 (i & 1),
// of B column g, of D rows g + 8 (i >> 1) and columns 2t + (i & 1); the k's of 16-bit numbers are
// 2t, 2t + 1 and 8 more, of tf32 t and t + 4. check_layouts.cpp compares this with CuTe.
#include "matrix.h"

#include <cstring>

#include "counters.h"
#include "machine.h"
#include "memory.h"

namespace torchext::emulator {
namespace {

struct Loaded {
  uint32_t* registers;
  int count;
  bool transposed;
  const uint8_t* row;
};

struct Multiplied {
  Number type;
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

}  // namespace

float widened(Number type, uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(half ? word >> 16 : word);
  float value;
  if (type == Number::f16) {
    _Float16 number;
    memcpy(&number, &bits, sizeof number);
    return static_cast<float>(number);
  }
  // tf32: the hardware leaves out the last 13 bits
  const uint32_t wide = type == Number::bf16 ? uint32_t{bits} << 16 : word & ~uint32_t{0x1fff};
  memcpy(&value, &wide, sizeof value);
  return value;
}

APART void load_matrices(uint32_t* registers, int count, bool transposed, const void* row) {
  Loaded own{registers, count, transposed, static_cast<const uint8_t*>(row)};
  if (current->lane < 8 * count) {
    check_shared(row, "a row of ldmatrix", CALLER);
    check_access(current, reinterpret_cast<uintptr_t>(row), 16, kReads | kMatrixRow, CALLER, 16);
  }
  meet_lanes(kLoadMatrices, ~0u, &own, CALLER, [](Warp& warp, uint32_t) {
    for (int lane = 0; lane < 32; ++lane) {
      const auto& p = *static_cast<Loaded*>(warp.posts[lane].payload);
      for (int m = 0; m < p.count; ++m) {
        uint16_t halves[2];
        for (int half = 0; half < 2; ++half) {
          const MatrixPlace at = loaded_by(lane, half, p.transposed);
          const auto& from = *static_cast<Loaded*>(warp.posts[8 * m + at.row].payload);
          memcpy(&halves[half], from.row + 2 * at.column, 2);
        }
        p.registers[m] = halves[0] | uint32_t{halves[1]} << 16;
      }
    }
  });
}

APART void multiply(Number type, float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  Multiplied own{type, d, a, b, c};
  meet_lanes(kMultiply, ~0u, &own, CALLER, [](Warp& warp, uint32_t) {
    const Number type = static_cast<Multiplied*>(warp.posts[0].payload)->type;
    const int halves = type == Number::tf32 ? 1 : 2, K = 8 * halves;
    float a[16][16], b[8][16];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& p = *static_cast<Multiplied*>(warp.posts[lane].payload);
      for (int half = 0; half < halves; ++half) {
        for (int i = 0; i < 4; ++i) {
          const MatrixPlace at = a_place(lane, i, half, halves);
          a[at.row][at.column] = widened(type, p.a[i], half);
        }
        for (int i = 0; i < 2; ++i) {
          const MatrixPlace at = b_place(lane, i, half, halves);
          b[at.column][at.row] = widened(type, p.b[i], half);
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const auto& p = *static_cast<Multiplied*>(warp.posts[lane].payload);
      for (int i = 0; i < 4; ++i) {
        const MatrixPlace at = d_place(lane, i);
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += a[at.row][k] * b[at.column][k];
        p.d[i] = p.c[i] + sum;
      }
    }
    count_products(2 * 16 * 8 * K);
  });
}

}  // namespace torchext::emulator
