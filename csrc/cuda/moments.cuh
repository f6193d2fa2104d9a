// Means and sums of squares around them.
#pragma once

#include "../common/plain.h"

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

}  // namespace torchext
