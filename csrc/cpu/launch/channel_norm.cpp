// batch_norm and group_norm on the CPU: sums over each channel of each image by the kernels of
// channels.h, put together here (in double: there are only N * C of them), then applied.
#include <cmath>

#include "../channels.h"
#include "scratch.h"

namespace torchext {

void launch(const cpu::ChannelMoments& p, const Queue& queue);
void launch(const cpu::ChannelSums& p, const Queue& queue);
void launch(const cpu::ChannelAffine& p, const Queue& queue);

namespace {

using cpu::Scratch;

// The channels that share statistics: which set (n, c) belongs to, and how many values a set has.
struct Sets {
  // An image is so many parts, which p takes for images.
  Sets(const Channels& p, int64_t parts)
      : parts(parts),
        C(p.C),
        groups(p.groups),
        count(p.groups ? p.N / parts * p.groups : p.C),
        channels(p.groups ? p.C / p.groups : 1),
        values((p.groups ? parts * channels : p.N) * p.S) {}
  // function(n * C + c, c, its set) for the channels of N images.
  template <class Function>
  void for_each_channel(int64_t N, Function function) const {
    for (int64_t n = 0; n < N; ++n) {
      const int64_t first = groups ? n / parts * groups : 0;
      for (int64_t c = 0, set = first; c < C; ++set) {
        for (int64_t k = 0; k < channels; ++k, ++c) function(n * C + c, c, set);
      }
    }
  }
  int64_t parts, C, groups, count, channels, values;
};

// mean[set] and squares[set] of the sets, from those of their channels (Chan's formula).
template <class F>
void combine(const Channels& p, const Sets& sets, const F* mean, const F* squares, double* set_mean,
             double* set_squares) {
  for (int64_t set = 0; set < sets.count; ++set) set_mean[set] = set_squares[set] = 0;
  sets.for_each_channel(p.N, [&](int64_t i, int64_t, int64_t set) { set_mean[set] += mean[i]; });
  for (int64_t set = 0; set < sets.count; ++set) set_mean[set] *= double(p.S) / sets.values;
  sets.for_each_channel(p.N, [&](int64_t i, int64_t, int64_t set) {
    const double d = mean[i] - set_mean[set];
    set_squares[set] += squares[i] + p.S * d * d;
  });
}

// Images whose channels have values of their own in the arrays that kernels read.
int64_t images_in_arrays(const Channels& p) { return p.groups ? p.N : 1; }

template <class F>
void normalize(const ChannelNorm& p, const Sets& sets, const Queue& queue) {
  F *mean = static_cast<F*>(p.mean), *rstd = static_cast<F*>(p.rstd);
  const int64_t images = images_in_arrays(p), size = images * p.C;
  const Scratch arrays(p.dtype, 4, size);
  F* channel_mean = static_cast<F*>(arrays.get());
  F *scale = channel_mean + size, *shift = scale + size, *ones = shift + size;
  if (p.training) {
    const F* means = static_cast<const F*>(p.channel_means);
    const F* squares = static_cast<const F*>(p.channel_squares);
    const Scratch moments(p.dtype, means ? 0 : 2, p.N, p.C);
    if (means == nullptr) {
      F* const found = static_cast<F*>(moments.get());
      launch(cpu::ChannelMoments{p, p.x, found, found + p.N * p.C}, queue);
      means = found, squares = found + p.N * p.C;
    }
    const Scratch set_arrays(DType::f64, 2, sets.count);
    double* set_mean = static_cast<double*>(set_arrays.get());
    double* set_squares = set_mean + sets.count;
    combine(p, sets, means, squares, set_mean, set_squares);
    for (int64_t set = 0; set < sets.count; ++set) {
      mean[set] = static_cast<F>(set_mean[set]);
      rstd[set] = static_cast<F>(1 / std::sqrt(set_squares[set] / sets.values + p.eps));
      if (p.new_running_mean != nullptr) {
        const double keep = 1 - p.momentum;
        static_cast<F*>(p.new_running_mean)[set] = static_cast<F>(
            keep * static_cast<const F*>(p.running_mean)[set] + p.momentum * set_mean[set]);
        static_cast<F*>(p.new_running_var)[set] =
            static_cast<F>(keep * static_cast<const F*>(p.running_var)[set] +
                           p.momentum * (set_squares[set] / (sets.values - 1)));
      }
    }
  } else {
    for (int64_t c = 0; c < p.C; ++c) {
      mean[c] = static_cast<const F*>(p.running_mean)[c];
      rstd[c] =
          static_cast<F>(1 / std::sqrt(double(static_cast<const F*>(p.running_var)[c]) + p.eps));
    }
  }
  const F *weight = static_cast<const F*>(p.weight), *bias = static_cast<const F*>(p.bias);
  sets.for_each_channel(images, [&](int64_t i, int64_t c, int64_t set) {
    channel_mean[i] = mean[set];
    scale[i] = weight ? rstd[set] * weight[c] : rstd[set];
    shift[i] = bias ? bias[c] : 0;
    ones[i] = 1;
  });
  cpu::ChannelAffine affine{p,     p.x, channel_mean, scale, p.residual, ones,
                            shift, p.y, p.activation, {},    nullptr};
  if (p.N > 0) launch(affine, queue);
}

template <class F>
void backward(const ChannelNormBackward& p, const Sets& sets, const Queue& queue) {
  const F *mean = static_cast<const F*>(p.mean), *rstd = static_cast<const F*>(p.rstd);
  const F *weight = static_cast<const F*>(p.weight), *bias = static_cast<const F*>(p.bias);
  const int64_t images = images_in_arrays(p), size = images * p.C;
  const Scratch arrays(p.dtype, 5, size), channel_sums(p.dtype, 2, p.N, p.C);
  F* channel_mean = static_cast<F*>(arrays.get());
  F *g_scale = channel_mean + size, *forward_shift = g_scale + size;
  F *scale = forward_shift + size, *shift = scale + size;
  F* of_g = static_cast<F*>(channel_sums.get());
  F* of_products = of_g + p.N * p.C;
  sets.for_each_channel(images, [&](int64_t i, int64_t c, int64_t set) {
    channel_mean[i] = mean[set];
    g_scale[i] = weight ? rstd[set] * weight[c] : rstd[set];  // the forward op's scale
    forward_shift[i] = bias ? bias[c] : 0;
  });
  const cpu::Gate gate{p.activation, p.x, channel_mean, g_scale, forward_shift, p.residual};
  const cpu::ChannelSums sums{p, p.x, p.grad_y, channel_mean, of_g, of_products, gate};
  if (p.N > 0) launch(sums, queue);

  const Scratch set_arrays(DType::f64, 2, sets.count + p.C);
  double* set_g = static_cast<double*>(set_arrays.get());
  double* set_products = set_g + sets.count;
  double *grad_weight = set_products + sets.count, *grad_bias = grad_weight + p.C;
  for (int64_t k = 0; k < 2 * (sets.count + p.C); ++k) set_g[k] = 0;
  sets.for_each_channel(p.N, [&](int64_t i, int64_t c, int64_t set) {
    const double w = weight ? weight[c] : 1;
    set_g[set] += w * of_g[i];
    set_products[set] += w * of_products[i];
    grad_weight[c] += double(of_products[i]) * rstd[set];
    grad_bias[c] += of_g[i];
  });
  for (int64_t c = 0; p.grad_weight != nullptr && c < p.C; ++c) {
    static_cast<F*>(p.grad_weight)[c] = static_cast<F>(grad_weight[c]);
    static_cast<F*>(p.grad_bias)[c] = static_cast<F>(grad_bias[c]);
  }

  // grad_x = rstd * (w * g - mean of w * g - xhat * mean of w * g * xhat)
  sets.for_each_channel(images, [&](int64_t i, int64_t, int64_t set) {
    const double r = rstd[set];
    scale[i] = static_cast<F>(-r * r * r * set_products[set] / sets.values);
    shift[i] = p.training ? static_cast<F>(-r * set_g[set] / sets.values) : F(0);
  });
  const void* x = p.training ? p.x : nullptr;
  const cpu::ChannelAffine affine{p,     x,        channel_mean,     scale, p.grad_y,       g_scale,
                                  shift, p.grad_x, Activation::none, gate,  p.grad_residual};
  if (p.N > 0) launch(affine, queue);
}

template <class P>
P in_parts(P p, int64_t parts) {
  p.N *= parts, p.S /= parts;
  return p;
}

}  // namespace

void launch(const ChannelNorm& whole, const Queue& queue) {
  const int64_t parts = cpu::parts_of_image(whole);
  const ChannelNorm p = in_parts(whole, parts);
  const Sets sets(p, parts);
  p.dtype == DType::f64 ? normalize<double>(p, sets, queue) : normalize<float>(p, sets, queue);
}
void launch(const ChannelNormBackward& whole, const Queue& queue) {
  const int64_t parts = cpu::parts_of_image(whole);
  const ChannelNormBackward p = in_parts(whole, parts);
  const Sets sets(p, parts);
  p.dtype == DType::f64 ? backward<double>(p, sets, queue) : backward<float>(p, sets, queue);
}

}  // namespace torchext
