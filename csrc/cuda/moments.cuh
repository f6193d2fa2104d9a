// Means of channels over parts of all pixels, and sums of squares around them.
#pragma once

#include "../common/plain.h"
#include "tile/queue.cuh"

namespace torchext {

// The mean of `count` numbers and their sum of squares around it.
template <class F>
struct Moments {
  F count, mean, squares;

  // Chan, Golub and LeVeque (1983)
  __device__ __forceinline__ void operator+=(const Moments& other) {
    if (other.count == 0) return;
    const F sum = count + other.count, distance = other.mean - mean;
    squares += other.squares + distance * distance * (count * other.count / sum);
    mean = (mean * count + other.mean * other.count) / sum;
    count = sum;
  }
};

// Those of V channels whose numbers come one after another: sums around the first, from which the
// others are not far, and which is kept where the caller has room.
template <class F, int V>
struct RunningMoments {
  F* first;  // [V]
  F sum[V] = {}, squares[V] = {}, count = 0;

  __device__ __forceinline__ void add(const F (&x)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (count == 0) first[k] = x[k] - x[k] == 0 ? x[k] : F(0);
      const F distance = x[k] - first[k];
      sum[k] += distance;
      squares[k] += distance * distance;
    }
    count += 1;
  }
  __device__ __forceinline__ Moments<F> of(int k) const {
    if (count == 0) return {0, 0, 0};
    const F left = squares[k] - sum[k] * (sum[k] / count);
    return {count, first[k] + sum[k] / count, left < 0 ? F(0) : left};  // rounding
  }
};

// Where blocks leave those of their pixels' channels.
template <class F>
struct PartsOfMoments {
  F *means, *squares, *counts;  // [parts][channels] twice, [parts]
  int64_t parts;
  int channels;

  // Channels from c on, `lanes` of which there are.
  template <int V>
  __device__ __forceinline__ void store(int part, int c, int lanes,
                                        const Moments<F> (&found)[V]) const {
    const int64_t to = int64_t{part} * channels + c;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (k >= lanes) continue;
      means[to + k] = found[k].mean;
      squares[to + k] = found[k].squares;
    }
    if (c == 0) counts[part] = found[0].count;
  }
};

template <class F>
PartsOfMoments<F> parts_of_moments(int64_t parts, int64_t channels, const Queue& queue) {
  F* all = tile::scratch<F>(queue, (2 * channels + 1) * parts);
  F* squares = all + parts * channels;
  return {all, squares, squares + parts * channels, parts, static_cast<int>(channels)};
}

}  // namespace torchext
