// conv2d: y[n,o,p] = act(bias[o] + residual[n,o,p] + sum over taps t and channels c of o's group of
// x[n, c, p * stride - padding + t * dilation] * w[o,c,t]), and its gradients. conv_transpose2d is
// the gradient of x with a bias.
#pragma once

#include "../common/activation.h"
#include "pool2d.h"

namespace torchext {

// The forward convolution's shape. Strides of w are (o, c, h, w).
struct Conv2dShape {
  DType dtype;
  int64_t N, C, H, W, O, OH, OW, groups;
  Window h, w;
  bool linear;     // what torch calls a matrix product, with a precision of its own
  bool rounded{};  // f32 whose factors need no more digits than TF32 has
};

// M rows of C numbers become M rows of O, as pixels of one image.
PLAIN Conv2dShape shape_of_rows(DType dtype, int64_t M, int64_t C, int64_t O) {
  const Window point{1, 1, 0, 1};
  return {dtype, 1, C, 1, M, O, 1, M, 1, point, point, false};
}

struct Conv2d : Conv2dShape {
  const void *x, *weight, *bias, *residual;  // the last two may be null
  const void* panels;  // the weight as ../cpu/product.h lays it out, or null: then it is done here
  bool pairs;          // of bf16 are in the panels
  void* y;
  Strides x_stride, w_stride, residual_stride, y_stride;
  Activation activation;
  const void *scale, *shift;  // [O], of the type computed in: sums * scale + shift; or null
};

// 3 x 3 taps, stride 1; `panels` has the weight's values at ../cpu/winograd.h's points in place of
// its taps. C and O are in one group.
struct Conv2dWinograd : Conv2d {};
constexpr int64_t kWinogradPoints = 36;

struct Conv2dBackwardInput : Conv2dShape {
  const void *grad_y, *y, *weight, *bias;  // y: what an activation returned, or null; bias: or null
  void* grad_x;
  Strides grad_y_stride, y_stride, w_stride, grad_x_stride;
  Activation activation;  // whose result y is
};

struct Conv2dBackwardWeight : Conv2dShape {
  const void *grad_y, *y, *x;
  void *grad_weight, *grad_bias;  // grad_bias may be null
  Strides grad_y_stride, y_stride, x_stride, w_stride;
  Activation activation;
};

bool takes_pairs();  // whether this device's products can be of such panels

void launch(const Conv2d& p, const Queue& queue);
void launch(const Conv2dWinograd& p, const Queue& queue);
void launch(const Conv2dBackwardInput& p, const Queue& queue);
void launch(const Conv2dBackwardWeight& p, const Queue& queue);

}  // namespace torchext
