// cross_entropy on the CPU, in one pass over an item's logits while they are in the first cache.
#include "../op/cross_entropy.h"

#include "dense.h"
#include "softmax.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// How an item's target weighs its classes: class c by part[c] = weight[c] * (probability[c] or
// uniform), and the given class by `extra` besides.
template <class T>
struct Target {
  using F = Compute<T>;
  Target(const CrossEntropy& p, int64_t n, int64_t i) : p(p), at(n * p.classes * p.inner + i) {
    const F smoothing = static_cast<F>(p.label_smoothing);
    uniform = smoothing / static_cast<F>(p.classes);
    keep = 1 - smoothing;
    if (p.target == nullptr) return;
    given = p.target[n * p.inner + i];
    ignored = given == p.ignore_index;
    if (!ignored) extra = keep * weight(given);
  }
  F weight(int64_t c) const {
    return p.weight != nullptr ? static_cast<const F*>(p.weight)[c] : F(1);
  }
  F part(int64_t c) const {
    if (p.target != nullptr) return weight(c) * uniform;
    const T* probabilities = static_cast<const T*>(p.probabilities) + at;
    return weight(c) * (load<1>(probabilities + c * p.inner)[0] * keep + uniform);
  }
  const CrossEntropy& p;
  int64_t at, given = -1;
  bool ignored = false;
  F uniform, keep, extra = 0;
};

template <class T>
INLINE Compute<T> loss_of(const CrossEntropy& p, int64_t n, int64_t i, Compute<T> lse) {
  using F = Compute<T>;
  const Target<T> target(p, n, i);
  if (target.ignored) return 0;
  const T* x = static_cast<const T*>(p.x) + target.at;
  F loss = 0;
  if (p.target != nullptr) loss = target.extra * (lse - load<1>(x + target.given * p.inner)[0]);
  if (p.target == nullptr || target.uniform != 0) {
    for (int64_t c = 0; c < p.classes; ++c) {
      loss += target.part(c) * (lse - load<1>(x + c * p.inner)[0]);
    }
  }
  return loss;
}

template <class T>
static void forward(const CrossEntropyForward& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  for (int64_t n = begin; n < end; ++n) {
    const T* x = static_cast<const T*>(p.x) + n * p.classes * p.inner;
    F *loss = static_cast<F*>(p.loss) + n * p.inner, *lse = static_cast<F*>(p.lse) + n * p.inner;
    if (p.inner == 1) {
      const auto e = exponentials_of_row(x, p.classes, [](auto...) {});
      lse[0] = e.largest + log_of(e.sum);
    } else {
      for_each_vector<T>(p.inner, [&](int64_t i, auto part) {
        const auto e = exponentials_of_columns(x + i, p.classes, p.inner, part);
        store_row(lse + i, e.largest + vlog(e.sum), part);
      });
    }
    for (int64_t i = 0; i < p.inner; ++i) loss[i] = loss_of<T>(p, n, i, lse[i]);
  }
}

template <class T>
static void backward(const CrossEntropyBackward& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t i = 0; i < p.inner; ++i) {
      const Target<T> target(p, n, i);
      const T* x = static_cast<const T*>(p.x) + target.at;
      T* grad_x = static_cast<T*>(p.grad_x) + target.at;
      const F g = static_cast<const F*>(p.grad_loss)[n * p.inner + i];
      const F lse = static_cast<const F*>(p.lse)[n * p.inner + i];
      F total = target.extra + target.uniform * static_cast<F>(p.weights);
      if (p.target == nullptr) {
        total = 0;
        for (int64_t c = 0; c < p.classes; ++c) total += target.part(c);
      }
      const auto put = [&](int64_t c, F share) {
        const F gradient =
            target.ignored
                ? F(0)
                : g * (share * total - target.part(c) - (c == target.given ? target.extra : F(0)));
        store<1>(grad_x + c * p.inner, Vec<F, 1>{} + gradient);
      };
      if (p.inner != 1) {  // one by one
        for (int64_t c = 0; c < p.classes; ++c) {
          put(c, vexp(load<1>(x + c * p.inner) - lse)[0]);
        }
        continue;
      }
      for_each_vector<T>(p.classes, [&](int64_t k, auto part) {
        const auto share = vexp(load_row(x + k, part) - lse);
        const int64_t lanes = min_of(int64_t(kLanes<T>), p.classes - k);
        for (int64_t lane = 0; lane < lanes; ++lane) put(k + lane, share[lane]);
      });
    }
  }
}

}  // namespace

void run(const CrossEntropyForward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(forward, p, begin, end)
}
void run(const CrossEntropyBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
