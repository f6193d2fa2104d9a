// Compares csrc/emulator/matrix.h with CuTe's layouts: which element each lane holds, and where
// swizzled tiles lie. Prints how many comparisons it made; returns how many failed.
#include <cstdio>
#include <cute/arch/mma_sm90_desc.hpp>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "../../csrc/emulator/matrix.h"

using namespace cute;
namespace emulator = torchext::emulator;

static int made = 0, failed = 0;
static void same(const char* what, long of_cute, long own) {
  ++made;
  if (of_cute != own && failed++ < 10) std::printf("%s: CuTe %ld, here %ld\n", what, of_cute, own);
}

// (thread, value) -> m + n * M
template <class Traits>
static void compare_products(const char* what, int halves) {
  typename Traits::ALayout a;
  typename Traits::BLayout b;
  typename Traits::CLayout c;
  for (int lane = 0; lane < 32; ++lane) {
    for (int half = 0; half < halves; ++half) {
      for (int i = 0; i < 4; ++i) {
        const auto at = emulator::a_place(lane, i, half, halves);
        same(what, a(lane, i * halves + half), at.row + 16 * at.column);
      }
      for (int i = 0; i < 2; ++i) {
        const auto at = emulator::b_place(lane, i, half, halves);
        same(what, b(lane, i * halves + half), at.column + 8 * at.row);
      }
    }
    for (int i = 0; i < 4; ++i) {
      const auto at = emulator::d_place(lane, i);
      same(what, c(lane, i), at.row + 16 * at.column);
    }
  }
}

template <class Layout>
static void compare_warpgroup(const char* what, int columns) {
  Layout layout;
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < columns / 2; ++i) {
      const auto at = emulator::warpgroup_place(thread, i);
      same(what, layout(thread, i), at.row + 64 * at.column);
    }
  }
}

// Bits of rows of 128: source lane l brings row l, register m of lane l gets 32 of them.
template <class Copy>
static void compare_loads(const char* what, bool transposed) {
  typename Copy_Traits<Copy>::SrcLayout from;
  typename Copy_Traits<Copy>::DstLayout to;
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      for (int half = 0; half < 2; ++half) {
        const auto at = emulator::loaded_by(lane, half, transposed);
        same(what, to(lane, m * 32 + half * 16), from(8 * m + at.row, at.column * 16));
      }
    }
  }
}

int main() {
  compare_products<MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>>("mma of bf16", 2);
  compare_products<MMA_Traits<SM80_16x8x16_F32F16F16F32_TN>>("mma of f16", 2);
  compare_products<MMA_Traits<SM80_16x8x8_F32TF32TF32F32_TN>>("mma of tf32", 1);
  compare_warpgroup<GMMA::CLayout_64x64>("wgmma, 64 columns", 64);
  compare_warpgroup<GMMA::CLayout_64x256>("wgmma, 256 columns", 256);
  compare_loads<SM75_U32x4_LDSM_N>("ldmatrix", false);
  compare_loads<SM75_U16x8_LDSM_T>("ldmatrix.trans", true);

  // The plain layout only flags pointers and does not swizzle when it is asked.
  const auto tile = as_position_independent_swizzle_layout(
      tile_to_shape(GMMA::Layout_K_SW128_Atom<bfloat16_t>{}, Shape<_128, _64>{}));
  const uint64_t stride = uint64_t{1024 >> 4} << 32;
  for (int row = 0; row < 128; ++row) {
    for (int k = 0; k < 64; ++k) {
      same("128-byte swizzle", tile(row, k) * 2, emulator::operand_address(stride, row, k));
      const uint64_t further = stride | static_cast<uint64_t>(k / 16 * 32) >> 4;
      same("a step along k", tile(row, k) * 2, emulator::operand_address(further, row, k % 16));
    }
  }
  GmmaDescriptor descriptor;
  descriptor.desc_ = 0;
  descriptor.bitfield.layout_type_ = 1;
  descriptor.bitfield.start_address_ = 0x12340 >> 4;
  descriptor.bitfield.stride_byte_offset_ = 1024 >> 4;
  same("a descriptor", static_cast<long>(descriptor.desc_),
       static_cast<long>((0x12340 & 0x3ffff) >> 4 | stride | uint64_t{1} << 62));
  std::printf("%d comparisons\n", made);
  return failed;
}
