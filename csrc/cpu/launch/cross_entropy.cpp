// cross_entropy on the CPU: the items by its kernels, what is summed over items here, in double.
#include "../../op/cross_entropy.h"

#include "../../common/check.h"
#include "scratch.h"

namespace torchext {

void launch(const CrossEntropyForward& p, const Queue& queue);
void launch(const CrossEntropyBackward& p, const Queue& queue);

namespace {

template <class F>
double sum_of(const void* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<const F*>(values)[i];
  return sum;
}

double sum_of(DType dtype, const void* values, int64_t count) {
  return dtype == DType::f64 ? sum_of<double>(values, count) : sum_of<float>(values, count);
}

void set(DType dtype, void* numbers, int64_t count, double value) {
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::f64) {
      static_cast<double*>(numbers)[i] = value;
    } else {
      static_cast<float*>(numbers)[i] = static_cast<float>(value);
    }
  }
}

double weight_of(const CrossEntropy& p, int64_t c) {
  if (p.weight == nullptr) return 1;
  return p.dtype == DType::f64 ? static_cast<const double*>(p.weight)[c]
                               : static_cast<const float*>(p.weight)[c];
}

void check_classes(const CrossEntropy& p, const char* op) {
  for (int64_t i = 0; p.target != nullptr && i < p.outer * p.inner; ++i) {
    const int64_t c = p.target[i];
    CHECK(c == p.ignore_index || (c >= 0 && c < p.classes), op, ": target: got class ", c,
          ", expected 0 to ", p.classes - 1, " or the ignored ", p.ignore_index);
  }
}

double total_weight(const CrossEntropy& p) {
  if (p.target == nullptr) return double(p.outer) * p.inner;
  double total = 0;
  for (int64_t i = 0; i < p.outer * p.inner; ++i) {
    if (p.target[i] != p.ignore_index) total += weight_of(p, p.target[i]);
  }
  return total;
}

}  // namespace

void launch(const CrossEntropyLoss& p, const Queue& queue) {
  check_classes(p, "cross_entropy");
  const int64_t items = p.outer * p.inner;
  if (items > 0) launch(static_cast<const CrossEntropyForward&>(p), queue);
  const double total = total_weight(p);
  set(p.dtype, p.total, 1, total);
  if (p.reduced == nullptr) return;
  const double sum = sum_of(p.dtype, p.loss, items);
  set(p.dtype, p.reduced, 1, p.mean ? sum / total : sum);
}

void launch(const CrossEntropyGradient& gradient, const Queue& queue) {
  check_classes(gradient, "cross_entropy_backward");
  CrossEntropyBackward p = gradient;
  for (int64_t c = 0; c < p.classes; ++c) p.weights += weight_of(p, c);
  const int64_t items = p.outer * p.inner;
  const cpu::Scratch gradients(p.dtype, 1, gradient.one_gradient ? items : 0);
  if (gradient.one_gradient) {
    double one = sum_of(p.dtype, p.grad_loss, 1);
    if (gradient.total != nullptr) one /= sum_of(p.dtype, gradient.total, 1);
    set(p.dtype, gradients.get(), items, one);
    p.grad_loss = gradients.get();
  }
  if (items > 0) launch(p, queue);
}

}  // namespace torchext
