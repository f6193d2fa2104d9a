// local_response_norm on the CPU: lanes along the channels where they are adjacent, else along a
// block of columns. Windows are summed anew at every channel: that is a few additions of what is in
// the first cache, beside the power.
#include "../op/local_response_norm.h"

#include "dense.h"
#include "math.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// A vector of results, and the channels around them.
template <class Part>
struct Around {
  int64_t at;          // element of the first lane
  int64_t c, C, step;  // its channel, of how many, and from one channel to the next
  Part part;
};

// The vector's channels, all `j` further; those beyond the ends are 0.
template <class T, class Part>
INLINE RowVector<T> load_around(const T* p, const Around<Part>& lanes, int64_t j) {
  constexpr int N = kLanes<T>;
  const int64_t c = lanes.c + j;
  if (lanes.step != 1) return load_row(p + lanes.at + j * lanes.step, lanes.part);
  if (c >= 0 && c + N <= lanes.C) return load<N>(p + lanes.at + j);
  T values[N] = {};
  for (int k = 0; k < N; ++k) {
    if (c + k >= 0 && c + k < lanes.C) values[k] = p[lanes.at + j + k];
  }
  return load<N>(values);
}

// The sum of term(j) over the channels j from `before` below to `after` above that there are.
template <class T, class Part, class Term>
INLINE RowVector<T> sum_around(const Around<Part>& lanes, int64_t before, int64_t after,
                               Term term) {
  const int64_t last = lanes.step == 1 ? kLanes<T> - 1 : 0;  // lanes of further channels
  const int64_t begin = max_of(-before, -lanes.c - last);
  const int64_t end = min_of(after, lanes.C - 1 - lanes.c);
  RowVector<T> sum{};
  for (int64_t j = begin; j <= end; ++j) sum += term(j);
  return sum;
}

template <class T, class P, class Function>
INLINE void for_each_lanes(const P& p, int64_t begin, int64_t end, Function function) {
  const int64_t blocks = ceil_div(p.inner, kColumns);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t first = piece % blocks * kColumns, row = piece / blocks * p.C * p.inner;
    if (p.inner == 1) {
      for_each_vector<T>(p.C, [&](int64_t c, auto part) {
        function(Around<decltype(part)>{row + c, c, p.C, 1, part});
      });
      continue;
    }
    for (int64_t c = 0; c < p.C; ++c) {
      for_each_vector<T>(min_of(kColumns, p.inner - first), [&](int64_t k, auto part) {
        function(Around<decltype(part)>{row + c * p.inner + first + k, c, p.C, p.inner, part});
      });
    }
  }
}

template <class V>
INLINE V power(V x, double exponent) {
  return vexp(vlog(x) * static_cast<LaneOf<V>>(exponent));
}

template <class T>
static void forward(const LocalResponseNorm& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(p.x);
  for_each_lanes<T>(p, begin, end, [&](auto lanes) {
    const auto squares = sum_around<T>(lanes, p.size / 2, (p.size - 1) / 2, [&](int64_t j) {
      const auto v = load_around(x, lanes, j);
      return v * v;
    });
    const auto scale = squares * static_cast<F>(p.alpha) + static_cast<F>(p.k);
    const auto y = load_around(x, lanes, 0) * power(scale, -p.beta);
    store_row(static_cast<T*>(p.y) + lanes.at, y, lanes.part);
    if (p.scale != nullptr) store_row(static_cast<F*>(p.scale) + lanes.at, scale, lanes.part);
  });
}

// grad_x = grad_y * scale^-beta - 2 alpha beta / size * x * sum of grad_y * y / scale, over the
// results that x is in the windows of.
template <class T>
static void backward(const LocalResponseNormBackward& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const T *grad_y = static_cast<const T*>(p.grad_y), *x = static_cast<const T*>(p.x);
  const T* y = static_cast<const T*>(p.y);
  const F* scale = static_cast<const F*>(p.scale);
  for_each_lanes<T>(p, begin, end, [&](auto lanes) {
    const auto sum = sum_around<T>(lanes, (p.size - 1) / 2, p.size / 2, [&](int64_t j) {
      const auto s = load_around(scale, lanes, j);
      const auto term = load_around(grad_y, lanes, j) * load_around(y, lanes, j);
      return s == 0 ? term : term / s;  // 0: beyond the ends, where term is 0 too
    });
    const auto own = load_around(grad_y, lanes, 0) * power(load_around(scale, lanes, 0), -p.beta);
    const F factor = static_cast<F>(2 * p.alpha * p.beta);
    const auto grad_x = own - load_around(x, lanes, 0) * sum * factor;
    store_row(static_cast<T*>(p.grad_x) + lanes.at, grad_x, lanes.part);
  });
}

}  // namespace

void run(const LocalResponseNorm& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(forward, p, begin, end)
}
void run(const LocalResponseNormBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
