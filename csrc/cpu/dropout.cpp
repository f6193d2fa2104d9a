// dropout on the CPU: a vector of counters gives four vectors of random words.
#include "../op/dropout.h"

#include "dense.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <int N>
struct Words {
  Vec<uint32_t, N> word[4];
};

// One half of a Philox round: the high and low words of a product.
template <int N>
INLINE void multiply(Vec<uint32_t, N> a, uint64_t by, Vec<uint32_t, N>& high,
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
  for (int k = 0; k < N; ++k) lane[k] = k;  // first is a multiple of N: no carry
  Words<N> w{{lane + uint32_t(first), U{} + uint32_t(first >> 32), U{}, U{}}};
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    multiply<N>(w.word[0], 0xD2511F53u, high0, low0);
    multiply<N>(w.word[2], 0xCD9E8D57u, high1, low1);
    w = {{high1 ^ w.word[1] ^ key0, low1, high0 ^ w.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return w;
}

template <class T>
static void forward(const Dropout& p, int64_t begin, int64_t end) {
  constexpr int N = kLanes<T>;
  using V = RowVector<T>;
  const Range range = elements_of_pieces(begin, end, p.count);
  const auto scale = static_cast<Compute<T>>(p.scale);
  const auto threshold = static_cast<int64_t>(p.threshold);
  for (int64_t block = range.begin; block < range.end; block += 256) {
    for (int64_t l = 0; l < 64; l += N) {
      const Words<N> words = philox<N>(block / 4 + l, p.seed);
      for (int j = 0; j < 4; ++j) {
        const int64_t k = block + j * 64 + l;
        if (k >= range.end) break;
        const auto put = [&](auto part) {
          const V v = load_row(static_cast<const T*>(p.x) + k, part) * scale;
          const auto wide = __builtin_convertvector(words.word[j], Vec<int64_t, N>);
          const auto kept = __builtin_convertvector(wide >= threshold, Vec<Integer<T>, N>);
          store_row(static_cast<T*>(p.y) + k, kept ? v : V{}, part);
        };
        k + N <= range.end ? put(Whole{}) : put(Part{range.end - k});
      }
    }
  }
}

}  // namespace

void run(const Dropout& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(forward, p, begin, end) }

}  // namespace torchext::cpu::TORCHEXT_ISA
