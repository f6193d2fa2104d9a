// Which element of a matrix each lane's registers hold, and wgmma's view of shared memory.
#pragma once

#include <cstdint>

#include "emulator.h"

namespace torchext::emulator {

struct MatrixPlace {
  int row, column;
};

// mma.sync m16n8: halves = 2 for numbers of 16 bits, 1 for tf32. Of B, row counts k.
inline MatrixPlace a_place(int lane, int i, int half, int halves) {
  const int t = lane % 4 * halves + half;
  return {lane / 4 + 8 * (i & 1), t + 4 * halves * (i >> 1)};
}
inline MatrixPlace b_place(int lane, int i, int half, int halves) {
  return {lane % 4 * halves + half + 4 * halves * i, lane / 4};
}
inline MatrixPlace d_place(int lane, int i) {
  return {lane / 4 + 8 * (i >> 1), 2 * (lane % 4) + (i & 1)};
}
// ldmatrix: what a half of a lane's register holds of the 8 x 8 matrix.
inline MatrixPlace loaded_by(int lane, int half, bool transposed) {
  const MatrixPlace place{lane / 4, 2 * (lane % 4) + half};
  return transposed ? MatrixPlace{place.column, place.row} : place;
}
// wgmma m64: of thread `thread` of the warpgroup.
inline MatrixPlace warpgroup_place(int thread, int i) {
  const int lane = thread % 32;
  return {16 * (thread / 32) + lane / 4 + 8 * (i >> 1 & 1),
          8 * (i >> 2) + 2 * (lane % 4) + (i & 1)};
}

// 128-byte swizzle of shared addresses, as TMA writes and wgmma reads.
inline uint32_t swizzled(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }
// Element (row, k), of 16 bits, of a K-major operand.
inline uint32_t operand_address(uint64_t descriptor, int row, int k) {
  const auto base = static_cast<uint32_t>((descriptor & 0x3fff) << 4);
  const auto stride = static_cast<uint32_t>((descriptor >> 32 & 0x3fff) << 4);
  return swizzled(base + row / 8 * stride + row % 8 * 128 + k * 2);
}

float widened(Number type, uint32_t word, int half);

}  // namespace torchext::emulator
