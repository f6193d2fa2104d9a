// cross_entropy (op/cross_entropy.h): along rows a team of threads makes an item from one read of
// its logits, across rows a thread makes one, three times over its classes, from L2. The items'
// losses and weights are summed up in double, by blocks and then by one. A class out of range makes
// its item NaN.
#include "../op/cross_entropy.h"
#include "rows.cuh"
#include "tile/divide.cuh"
#include "tile/math.cuh"
#include "tile/queue.cuh"

namespace torchext {
namespace {

template <class T>
struct Logits {
  int64_t items, classes;
  tile::Divider<int64_t> inner;
  const T *x, *probabilities;
  const int64_t* target;
  const Compute<T>* weight;
  int64_t ignored;
  Compute<T> keep, uniform;  // of the target; of every class

  explicit Logits(const CrossEntropy& p)
      : items(p.outer * p.inner),
        classes(p.classes),
        inner(p.inner),
        x(static_cast<const T*>(p.x)),
        probabilities(static_cast<const T*>(p.probabilities)),
        target(p.target),
        weight(static_cast<const Compute<T>*>(p.weight)),
        ignored(p.ignore_index),
        keep(static_cast<Compute<T>>(1) - static_cast<Compute<T>>(p.label_smoothing)),
        uniform(static_cast<Compute<T>>(p.label_smoothing) / static_cast<Compute<T>>(p.classes)) {}
  __device__ __forceinline__ Compute<T> weight_of(int64_t c) const {
    return weight ? weight[c] : Compute<T>(1);
  }
  // Where an item's first class is.
  __device__ __forceinline__ int64_t begin_of(int64_t item) const {
    const int64_t n = item / inner;
    return n * classes * inner + (item - n * inner);
  }
};

// How an item's target weighs its classes: class c by part(c, probability), and the given class by
// `extra` besides.
template <class T>
struct Target {
  using F = Compute<T>;
  const Logits<T>& p;
  int64_t given = -1;
  bool ignored = false;
  F extra = 0;

  __device__ __forceinline__ Target(const Logits<T>& p, int64_t item) : p(p) {
    if (!p.target) return;
    given = p.target[item];
    ignored = given == p.ignored;
    if (ignored) return;
    const bool known = given >= 0 && given < p.classes;
    extra = known ? p.keep * p.weight_of(given) : static_cast<F>(__builtin_nan(""));
    if (!known) given = 0;
  }
  __device__ __forceinline__ F part(int64_t c, F probability) const {
    return p.weight_of(c) * (p.target ? p.uniform : probability * p.keep + p.uniform);
  }
  // Whether every class counts, not only the given one.
  __device__ __forceinline__ bool of_all() const { return !p.target || p.uniform != 0; }
};

template <class F>
struct Items {
  F *loss, *lse;
};

template <class T, int V, int kTeam>
__global__ void __launch_bounds__(kRowThreads, 2)
    cross_entropy_kernel(const Logits<T> p, const Items<Compute<T>> to) {
  using F = Compute<T>;
  const int64_t item = row_of_team<kTeam>();
  if (item >= p.items) return;  // a whole team
  const int64_t begin = item * p.classes;
  const Row<T, V, kTeam> x(p.x + begin, p.classes);
  F largest = -static_cast<F>(__builtin_inf());
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) largest = tile::Maximum()(largest, tile::widen(pack.lanes[k]));
  });
  largest = over_team<tile::Maximum, kTeam>(largest);
  F sum = 0;
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) sum += tile::exp_of(tile::widen(pack.lanes[k]) - largest);
  });
  const F lse = largest + tile::log_of(over_team<tile::Sum, kTeam>(sum));
  const Target<T> target(p, item);
  F loss = 0;
  if (target.of_all()) {
    x.each([&](const Pack<T, V>& pack, int64_t at) {
      Pack<T, V> probabilities{};
      if (p.probabilities) probabilities = tile::load<V>(p.probabilities + begin + at);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const F part = target.part(at + k, tile::widen(probabilities.lanes[k]));
        loss += part * (lse - tile::widen(pack.lanes[k]));
      }
    });
    loss = over_team<tile::Sum, kTeam>(loss);
  }
  if (threadIdx.x % kTeam != 0) return;
  if (p.target && !target.ignored) {
    loss += target.extra * (lse - tile::widen(p.x[begin + target.given]));
  }
  to.loss[item] = target.ignored ? F(0) : loss;
  to.lse[item] = lse;
}

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    cross_entropy_columns_kernel(const Logits<T> p, const Items<Compute<T>> to) {
  using F = Compute<T>;
  const int64_t item = pointwise_begin<1>();
  if (item >= p.items) return;
  const int64_t begin = p.begin_of(item), inner = p.inner;
  F largest = -static_cast<F>(__builtin_inf()), sum = 0, loss = 0;
  for (int64_t c = 0; c < p.classes; ++c) {
    largest = tile::Maximum()(largest, tile::widen(p.x[begin + c * inner]));
  }
  for (int64_t c = 0; c < p.classes; ++c) {
    sum += tile::exp_of(tile::widen(p.x[begin + c * inner]) - largest);
  }
  const F lse = largest + tile::log_of(sum);
  const Target<T> target(p, item);
  for (int64_t c = 0; target.of_all() && c < p.classes; ++c) {
    const int64_t at = begin + c * inner;
    const F probability = p.probabilities ? tile::widen(p.probabilities[at]) : F(0);
    loss += target.part(c, probability) * (lse - tile::widen(p.x[at]));
  }
  if (p.target && !target.ignored) {
    loss += target.extra * (lse - tile::widen(p.x[begin + target.given * inner]));
  }
  to.loss[item] = target.ignored ? F(0) : loss;
  to.lse[item] = lse;
}

// ---- Over the items

struct Totals {
  double loss, weight;
};

template <class F>
struct Reduction {
  int64_t items, items_of_block;
  const F *loss, *weight;
  const int64_t* target;
  int64_t ignored, classes, blocks;
  Totals* parts;  // [blocks]
  F *total, *reduced;
  bool mean;
};

template <class F>
__global__ void __launch_bounds__(kRowThreads) sum_items_kernel(const Reduction<F> p) {
  double* shared = tile::shared_array<double>();
  const int64_t first = blockIdx.x * p.items_of_block;
  const int64_t end = min_of(first + p.items_of_block, p.items);
  Totals own{0, 0};
  for (int64_t i = first + threadIdx.x; i < end; i += kRowThreads) {
    own.loss += static_cast<double>(p.loss[i]);
    const int64_t given = p.target ? p.target[i] : 0;
    if (p.target && given == p.ignored) continue;
    const bool known = given >= 0 && given < p.classes;
    const bool weighs = p.target && p.weight && known;
    own.weight += weighs ? static_cast<double>(p.weight[given]) : 1;
  }
  own.loss = tile::over_block<tile::Sum, kRowThreads>(own.loss, shared);
  own.weight = tile::over_block<tile::Sum, kRowThreads>(own.weight, shared);
  if (threadIdx.x == 0) p.parts[blockIdx.x] = own;
}

template <class F>
__global__ void __launch_bounds__(kRowThreads) sum_blocks_kernel(const Reduction<F> p) {
  double* shared = tile::shared_array<double>();
  Totals own{0, 0};
  for (int64_t i = threadIdx.x; i < p.blocks; i += kRowThreads) {
    own.loss += p.parts[i].loss;
    own.weight += p.parts[i].weight;
  }
  own.loss = tile::over_block<tile::Sum, kRowThreads>(own.loss, shared);
  own.weight = tile::over_block<tile::Sum, kRowThreads>(own.weight, shared);
  if (threadIdx.x != 0) return;
  *p.total = static_cast<F>(own.weight);
  if (p.reduced) *p.reduced = static_cast<F>(p.mean ? own.loss / own.weight : own.loss);
}

// ---- Backward

template <class T>
struct Gradient {
  const Compute<T>*lse, *grad_loss, *total;  // total: null of a sum
  bool one_gradient;
  T* grad_x;

  __device__ __forceinline__ Compute<T> of(int64_t item) const {
    const Compute<T> g = grad_loss[one_gradient ? 0 : item];
    return total ? g / *total : g;
  }
};

// grad_x = g * (share * all - part - extra), share = exp(x - lse) and `all` the sum of the parts.
template <class T, int V, int kTeam>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_backward_kernel(const Logits<T> p, const Gradient<T> gradient) {
  using F = Compute<T>;
  const int64_t item = row_of_team<kTeam>();
  if (item >= p.items) return;  // a whole team
  const int64_t begin = item * p.classes;
  const Row<T, V, kTeam> x(p.x + begin, p.classes);
  const Target<T> target(p, item);
  const F lse = gradient.lse[item], g = gradient.of(item);
  F all = 0;
  const auto part_at = [&](int64_t at, F(&parts)[V]) {
    Pack<T, V> probabilities{};
    if (p.probabilities) probabilities = tile::load<V>(p.probabilities + begin + at);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      parts[k] = target.part(at + k, tile::widen(probabilities.lanes[k]));
    }
  };
  if (target.of_all()) {
    x.each([&](const Pack<T, V>&, int64_t at) {
      F parts[V];
      part_at(at, parts);
#pragma unroll
      for (int k = 0; k < V; ++k) all += parts[k];
    });
    all = over_team<tile::Sum, kTeam>(all);
  }
  all += target.extra;
  x.each([&](const Pack<T, V>& pack, int64_t at) {
    F parts[V], grad_x[V];
    part_at(at, parts);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const F share = tile::exp_of(tile::widen(pack.lanes[k]) - lse);
      const F extra = at + k == target.given ? target.extra : F(0);
      grad_x[k] = target.ignored ? F(0) : g * (share * all - parts[k] - extra);
    }
    tile::store_narrow(gradient.grad_x + begin + at, grad_x);
  });
}

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    cross_entropy_columns_backward_kernel(const Logits<T> p, const Gradient<T> gradient) {
  using F = Compute<T>;
  const int64_t item = pointwise_begin<1>();
  if (item >= p.items) return;
  const int64_t begin = p.begin_of(item), inner = p.inner;
  const Target<T> target(p, item);
  const F lse = gradient.lse[item], g = gradient.of(item);
  const auto part_of = [&](int64_t c) {
    const F probability = p.probabilities ? tile::widen(p.probabilities[begin + c * inner]) : F(0);
    return target.part(c, probability);
  };
  F all = target.extra;
  for (int64_t c = 0; target.of_all() && c < p.classes; ++c) all += part_of(c);
  for (int64_t c = 0; c < p.classes; ++c) {
    const int64_t at = begin + c * inner;
    const F share = tile::exp_of(tile::widen(p.x[at]) - lse);
    const F extra = c == target.given ? target.extra : F(0);
    const F value = target.ignored ? F(0) : g * (share * all - part_of(c) - extra);
    gradient.grad_x[at] = tile::narrow<T>(value);
  }
}

// ---- Launches

template <class T>
bool in_vectors(const CrossEntropy& p) {
  return rows_in_vectors<T>(p.classes, p.x, p.probabilities);
}

template <class T>
void launch_items(const CrossEntropyLoss& p, const Queue& queue) {
  using F = Compute<T>;
  const char* op = "cross_entropy";
  const Logits<T> logits(p);
  const Items<F> to{static_cast<F*>(p.loss), static_cast<F*>(p.lse)};
  if (p.inner != 1) {
    const dim3 grid = tile::blocks_for(op, logits.items, kPointwiseThreads);
    return tile::launch_kernel(op, cross_entropy_columns_kernel<T>, grid, kPointwiseThreads, 0,
                               queue, logits, to);
  }
  for_rows<T>(p.classes, in_vectors<T>(p), [&](auto V, auto team) {
    launch_rows<T>(op, cross_entropy_kernel<T, V(), team()>, logits.items, team(), queue, logits,
                   to);
  });
}

template <class T>
void forward(const CrossEntropyLoss& p, const Queue& queue) {
  using F = Compute<T>;
  const char* op = "cross_entropy";
  const int64_t items = p.outer * p.inner;
  if (items > 0) launch_items<T>(p, queue);
  constexpr int64_t kMostBlocks = 256;
  const int64_t items_of_block = max_of(ceil_div(items, kMostBlocks), int64_t{kRowThreads});
  const int64_t blocks = ceil_div(items, items_of_block);
  const Reduction<F> reduction{items,
                               items_of_block,
                               static_cast<const F*>(p.loss),
                               static_cast<const F*>(p.weight),
                               p.target,
                               p.ignore_index,
                               p.classes,
                               blocks,
                               tile::scratch<Totals>(queue, blocks),
                               static_cast<F*>(p.total),
                               static_cast<F*>(p.reduced),
                               p.mean};
  constexpr size_t kShared = kRowThreads / tile::kWarp * sizeof(double);
  if (blocks > 0) {
    tile::launch_kernel(op, sum_items_kernel<F>, dim3(static_cast<unsigned>(blocks)), kRowThreads,
                        kShared, queue, reduction);
  }
  tile::launch_kernel(op, sum_blocks_kernel<F>, dim3(1), kRowThreads, kShared, queue, reduction);
}

template <class T>
void backward(const CrossEntropyGradient& p, const Queue& queue) {
  using F = Compute<T>;
  const char* op = "cross_entropy_backward";
  const Logits<T> logits(p);
  if (logits.items == 0) return;
  const Gradient<T> gradient{static_cast<const F*>(p.lse), static_cast<const F*>(p.grad_loss),
                             static_cast<const F*>(p.total), p.one_gradient,
                             static_cast<T*>(p.grad_x)};
  if (p.inner != 1) {
    const dim3 grid = tile::blocks_for(op, logits.items, kPointwiseThreads);
    return tile::launch_kernel(op, cross_entropy_columns_backward_kernel<T>, grid,
                               kPointwiseThreads, 0, queue, logits, gradient);
  }
  const bool vectors = in_vectors<T>(p) && all_aligned<T>(p.grad_x);
  for_rows<T>(p.classes, vectors, [&](auto V, auto team) {
    launch_rows<T>(op, cross_entropy_backward_kernel<T, V(), team()>, logits.items, team(), queue,
                   logits, gradient);
  });
}

}  // namespace

void launch(const CrossEntropyLoss& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

void launch(const CrossEntropyGradient& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
