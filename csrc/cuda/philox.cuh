// Random words by a counter and a seed.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct Words {
  uint32_t word[4];
};

// Philox 4x32-10 (Salmon et al., 2011).
__device__ __forceinline__ Words philox(uint64_t counter, uint64_t seed) {
  Words w{{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}};
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(w.word[0], 0xD2511F53u), low0 = w.word[0] * 0xD2511F53u;
    const uint32_t high1 = __umulhi(w.word[2], 0xCD9E8D57u), low1 = w.word[2] * 0xCD9E8D57u;
    w = {{high1 ^ w.word[1] ^ key0, low1, high0 ^ w.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return w;
}

}  // namespace torchext
