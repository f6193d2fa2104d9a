// Philox 4x32-10 on vectors. Compiled once per ISA.
#pragma once

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <int N>
struct Words {
  Vec<uint32_t, N> word[4];
};

// One half of a Philox round: the high and low words of a product.
template <int N>
INLINE void multiply_words(Vec<uint32_t, N> a, uint64_t by, Vec<uint32_t, N>& high,
                           Vec<uint32_t, N>& low) {
  const auto product = __builtin_convertvector(a, Vec<uint64_t, N>) * by;
  high = __builtin_convertvector(product >> 32, Vec<uint32_t, N>);
  low = __builtin_convertvector(product, Vec<uint32_t, N>);
}

// Philox 4x32-10 (Salmon et al., 2011) of the counters first, first + 1, ...
template <int N>
INLINE Words<N> philox(uint64_t first, uint64_t seed) {
  using U = Vec<uint32_t, N>;
  U lane;
  for (int k = 0; k < N; ++k) lane[k] = k;
  const U low = lane + uint32_t(first);
  const U carry = low < uint32_t(first) ? U{} + 1 : U{};
  Words<N> w{{low, carry + uint32_t(first >> 32), U{}, U{}}};
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    multiply_words<N>(w.word[0], 0xD2511F53u, high0, low0);
    multiply_words<N>(w.word[2], 0xCD9E8D57u, high1, low1);
    w = {{high1 ^ w.word[1] ^ key0, low1, high0 ^ w.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return w;
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
