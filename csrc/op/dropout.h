// dropout: y[i] = x[i] * scale where random(seed, i) >= p, else 0, for row-major i.
// random is Philox 4x32-10: of each 256 elements, number j * 64 + l takes word j of the counter
// i / 256 * 64 + l, so that vectors of any length take whole vectors of words.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct Dropout {
  DType dtype;
  int64_t count;
  uint64_t threshold;  // words below it drop their element
  double scale;
  uint64_t seed;
  const void* x;
  void* y;
};

void launch(const Dropout& p, const Queue& queue);

}  // namespace torchext
