// Which instruction set the CPU kernels use: the best this CPU has, or TORCHEXT_ISA.
#pragma once

#include <string>

namespace torchext::cpu {

enum class Isa { generic, avx2, avx512 };

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
  }
#endif
  return isa == Isa::generic;
}

constexpr const char* kIsaNames[] = {"generic", "avx2", "avx512"};

inline Isa best_isa() {
  return cpu_has(Isa::avx512) ? Isa::avx512 : cpu_has(Isa::avx2) ? Isa::avx2 : Isa::generic;
}

}  // namespace torchext::cpu
