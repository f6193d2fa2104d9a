// Which instruction set the CPU kernels use: the best this CPU has, or TORCHEXT_ISA.
#pragma once

#include <string>

#include "../common/plain.h"

namespace torchext::cpu {

// The last has the code of the one before it, and an instruction for pairs of bf16.
enum class Isa { generic, avx2, avx512, avx512_bf16 };

inline bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::generic:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return cpu_has(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Isa::avx512_bf16:
#ifdef TORCHEXT_KNOWS_PAIRS
      return cpu_has(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#else
      return false;
#endif
  }
#endif
  return isa == Isa::generic;
}

constexpr const char* kIsaNames[] = {"generic", "avx2", "avx512", "avx512_bf16"};
constexpr int kIsas = 4;

inline Isa best_isa() {
  int best = kIsas - 1;
  while (!cpu_has(static_cast<Isa>(best))) --best;
  return static_cast<Isa>(best);
}

}  // namespace torchext::cpu
