// Tensor cores of sm_80: ldmatrix and mma.sync. csrc/emulator/matrix.h says which lane holds what.
#pragma once

#include "async.cuh"
#include "number.cuh"

namespace torchext::tile {

// Four 8 x 8 matrices of 16-bit numbers; lane l brings the address of row l % 8 of matrix l / 8.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
#if TORCHEXT_EMULATED
  emulator::load_matrices(registers, 4, kTransposed, row);
#else
  if (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
#endif
}

// Rounded to TF32, the 19 bits that tensor cores take of a float.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
#if TORCHEXT_EMULATED
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~uint32_t{0x1fff} : bits;
#else
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "r"(bits));
  return rounded;
#endif
}

// d += a * b: 16 x 16 times 16 x 8; of TF32, 16 x 8 times 8 x 8.
__device__ __forceinline__ void multiply_add(float, float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t* b) {
#if TORCHEXT_EMULATED
  emulator::multiply(emulator::Number::tf32, d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ void multiply_add(bf16, float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t* b) {
#if TORCHEXT_EMULATED
  emulator::multiply(emulator::Number::bf16, d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ void multiply_add(f16, float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t* b) {
#if TORCHEXT_EMULATED
  emulator::multiply(emulator::Number::f16, d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace torchext::tile
