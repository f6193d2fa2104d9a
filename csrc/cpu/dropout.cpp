// dropout on the CPU: a vector of counters gives four vectors of random words.
#include "../op/dropout.h"

#include "dense.h"
#include "philox.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

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
