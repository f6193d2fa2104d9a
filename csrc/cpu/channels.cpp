// Sums over channels and functions of channels on the CPU. With S adjacent a channel is a row; with
// C adjacent lanes run along the channels and sums go down the pixels.
#include "channels.h"

#include "activation.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr int64_t kPixelsAtOnce = 16;  // whose rows follow each other; summed in registers

// sums[k / N] = the sum over all pixels of function(s, k, Whole or Part), for `count` channels k.
template <class T, class V, class Function>
INLINE void sum_over_pixels(int64_t S, int64_t count, V* sums, Function function) {
  constexpr int N = kLanes<T>, U = 4;  // sums that need not wait for each other
  for (int64_t k = 0; k < count; k += N) sums[k / N] = V{};
  for (int64_t begin = 0; begin < S; begin += kPixelsAtOnce) {
    const int64_t end = min_of(S, begin + kPixelsAtOnce);
    const auto add = [&](int64_t k, auto u, auto part) {
      V some[decltype(u)::value] = {};
      for (int64_t s = begin; s < end; ++s) {
        unrolled<decltype(u)::value>(
            [&](auto j) ALWAYS_INLINE { some[j.value] += function(s, k + j.value * N, part); });
      }
      unrolled<decltype(u)::value>([&](auto j)
                                       ALWAYS_INLINE { sums[k / N + j.value] += some[j.value]; });
    };
    int64_t k = 0;
    for (; k + U * N <= count; k += U * N) add(k, Constant<U>{}, Whole{});
    for_each_vector<T>(count - k,
                       [&](int64_t more, auto part) { add(k + more, Constant<1>{}, part); });
  }
}

// function(the first pixel's offset in x, its channel in [N, C], how many channels) for each piece
// in channels_last.
template <class Function>
INLINE void for_each_piece(const Channels& p, int64_t begin, int64_t end, Function function) {
  const int64_t blocks = ceil_div(p.C, kChannels);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t n = piece / blocks, c = piece % blocks * kChannels;
    function(n * p.S * p.C + c, n * p.C + c, min_of(kChannels, p.C - c));
  }
}

template <class T>
static void moments(const ChannelMoments& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  using V = RowVector<T>;
  F *means = static_cast<F*>(p.mean), *all_squares = static_cast<F*>(p.squares);
  if (p.channels_last) {
    for_each_piece(p, begin, end, [&](int64_t at, int64_t channel, int64_t count) {
      constexpr int N = kLanes<T>;
      V mean[kChannels / N], squares[kChannels / N];
      const T* x = static_cast<const T*>(p.x) + at;
      sum_over_pixels<T>(p.S, count, mean, [&](int64_t s, int64_t k, auto part) {
        return load_row(x + s * p.C + k, part);
      });
      for (int64_t k = 0; k < count; k += N) mean[k / N] /= static_cast<F>(p.S);
      sum_over_pixels<T>(p.S, count, squares, [&](int64_t s, int64_t k, auto part) {
        const V d = load_row(x + s * p.C + k, part) - mean[k / N];
        return d * d;
      });
      for_each_vector<T>(count, [&](int64_t k, auto part) {
        store_row(means + channel + k, mean[k / N], part);
        store_row(all_squares + channel + k, squares[k / N], part);
      });
    });
    return;
  }
  for (int64_t channel = begin; channel < end; ++channel) {
    const T* x = static_cast<const T*>(p.x) + channel * p.S;
    const F mean =
        sum_over_row<T>(p.S, [&](int64_t k, auto part) { return load_row(x + k, part); }) /
        static_cast<F>(p.S);
    means[channel] = mean;
    all_squares[channel] = sum_over_row<T>(p.S, [&](int64_t k, auto part) {
      const V d = load_row(x + k, part) - mean;
      return d * d;
    });
  }
}

// Out of line: the derivatives are long.
template <class V>
static __attribute__((noinline)) V gate_by_call(Activation activation, V g, V u) {
  const V slope = derivative(activation, derivative_argument(activation, u));
  return times_derivative(activation, g, slope);
}

// The vector of g behind its gate; `of` gives an array's values for its lanes.
template <class T, class Part, class Of>
INLINE RowVector<T> gated(const Gate& gate, const void* g, int64_t at, Part part, Of of) {
  using V = RowVector<T>;
  const V v = load_row(static_cast<const T*>(g) + at, part);
  if (gate.activation == Activation::none) return v;
  V u = V{} + of(gate.shift);
  u = (load_row(static_cast<const T*>(gate.x) + at, part) - of(gate.mean)) * of(gate.scale) + u;
  if (gate.residual != nullptr) u += load_row(static_cast<const T*>(gate.residual) + at, part);
  if (gate.activation == Activation::relu) return u <= 0 ? V{} : v;
  return gate_by_call(gate.activation, v, u);
}

// Two sums in one pass.
template <class V>
struct Sums {
  V of_g, of_products;
  void operator+=(const Sums& more) {
    of_g += more.of_g;
    of_products += more.of_products;
  }
};

// One vector's part of the two sums.
template <class T, class Part, class Of>
INLINE Sums<RowVector<T>> products(const ChannelSums& p, int64_t at, Part part, Of of) {
  const auto g = masked(gated<T>(p.gate, p.g, at, part, of), part);
  const auto d = load_row(static_cast<const T*>(p.x) + at, part) - of(p.mean);
  return {g, masked(g * d, part)};
}

template <class T>
static void sums(const ChannelSums& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  using V = RowVector<T>;
  F *all_of_g = static_cast<F*>(p.of_g), *all_of_products = static_cast<F*>(p.of_products);
  if (p.channels_last) {
    for_each_piece(p, begin, end, [&](int64_t at, int64_t channel, int64_t count) {
      constexpr int N = kLanes<T>;
      Sums<V> found[kChannels / N];
      const int64_t array_channel = array_index(p, channel);
      sum_over_pixels<T>(p.S, count, found, [&](int64_t s, int64_t k, auto part) {
        return products<T>(p, at + s * p.C + k, part, [&](const void* array) {
          return load_row(static_cast<const F*>(array) + array_channel + k, part);
        });
      });
      for_each_vector<T>(count, [&](int64_t k, auto part) {
        store_row(all_of_g + channel + k, found[k / N].of_g, part);
        store_row(all_of_products + channel + k, found[k / N].of_products, part);
      });
    });
    return;
  }
  for (int64_t channel = begin; channel < end; ++channel) {
    const int64_t array_channel = array_index(p, channel);
    const auto of = [&](const void* array) { return static_cast<const F*>(array)[array_channel]; };
    const auto of_vector = [&](int64_t k, auto part) {
      return products<T>(p, channel * p.S + k, part, of);
    };
    const auto sum = fold_vectors<T>(p.S, Sums<V>{}, of_vector, [](auto a, const auto& b) {
      a += b;
      return a;
    });
    all_of_g[channel] = sum_of_lanes(sum.of_g);
    all_of_products[channel] = sum_of_lanes(sum.of_products);
  }
}

// The affine function of one vector; `of` gives an array's values for its lanes.
template <class T, class Part, class Of>
INLINE void apply(const ChannelAffine& p, int64_t at, Part part, Of of) {
  RowVector<T> y = RowVector<T>{} + of(p.shift);
  if (p.x != nullptr) {
    y = (load_row(static_cast<const T*>(p.x) + at, part) - of(p.mean)) * of(p.scale) + y;
  }
  if (p.g != nullptr) {
    const auto g = gated<T>(p.gate, p.g, at, part, of);
    if (p.to_gated != nullptr) store_row(static_cast<T*>(p.to_gated) + at, g, part);
    y += g * of(p.g_scale);
  }
  store_row(static_cast<T*>(p.y) + at, activate(p.activation, y), part);
}

// The same without a gate, of P pixels that follow each other: the arrays are read once for all.
template <int P, bool kG, class T, class Part>
INLINE void apply_ungated(const ChannelAffine& p, int64_t at, int64_t array_at, Part part) {
  using F = Compute<T>;
  const auto of = [&](const void* array) {
    return load_row(static_cast<const F*>(array) + array_at, part);
  };
  const RowVector<T> shift = of(p.shift), mean = of(p.mean), scale = of(p.scale);
  RowVector<T> g_scale{}, y[P];
  if constexpr (kG) g_scale = of(p.g_scale);
  unrolled<P>([&](auto i) ALWAYS_INLINE {
    const int64_t pixel = at + i.value * p.C;
    y[i.value] = (load_row(static_cast<const T*>(p.x) + pixel, part) - mean) * scale + shift;
    if constexpr (kG) y[i.value] += load_row(static_cast<const T*>(p.g) + pixel, part) * g_scale;
  });
  if (p.activation != Activation::none) {
    unrolled<P>([&](auto i) ALWAYS_INLINE { y[i.value] = activate(p.activation, y[i.value]); });
  }
  unrolled<P>([&](auto i) ALWAYS_INLINE {
    store_row(static_cast<T*>(p.y) + at + i.value * p.C, y[i.value], part);
  });
}

template <bool kG, class T>
INLINE void affine_ungated(const ChannelAffine& p, int64_t pixel, int64_t stop) {
  constexpr int P = 4;
  const auto first_of = [&](int64_t pixel) { return p.groups ? pixel / p.S * p.C : 0; };
  // Of what lies beyond the caches, row after row: in one stream it comes faster than in four.
  const bool cached = p.N * p.S * p.C * static_cast<int64_t>(sizeof(T)) <= int64_t{4} << 20;
  while (pixel < stop) {
    const int64_t first = first_of(pixel);
    const bool all = cached && pixel + P <= stop && first_of(pixel + P - 1) == first;
    for_each_vector<T>(p.C, [&](int64_t k, auto part) {
      all ? apply_ungated<P, kG, T>(p, pixel * p.C + k, first + k, part)
          : apply_ungated<1, kG, T>(p, pixel * p.C + k, first + k, part);
    });
    pixel += all ? P : 1;
  }
}

template <class T>
static void affine(const ChannelAffine& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  if (p.channels_last) {
    const int64_t stop = min_of(end * kPixels, p.N * p.S);
    if (p.gate.activation == Activation::none && p.to_gated == nullptr && p.x != nullptr) {
      return p.g != nullptr ? affine_ungated<true, T>(p, begin * kPixels, stop)
                            : affine_ungated<false, T>(p, begin * kPixels, stop);
    }
    for (int64_t pixel = begin * kPixels; pixel < stop; ++pixel) {
      const int64_t first = p.groups ? pixel / p.S * p.C : 0;
      for_each_vector<T>(p.C, [&](int64_t k, auto part) {
        apply<T>(p, pixel * p.C + k, part, [&](const void* array) {
          return load_row(static_cast<const F*>(array) + first + k, part);
        });
      });
    }
    return;
  }
  for (int64_t channel = begin; channel < end; ++channel) {
    const int64_t array_channel = array_index(p, channel);
    for_each_vector<T>(p.S, [&](int64_t k, auto part) {
      apply<T>(p, channel * p.S + k, part,
               [&](const void* array) { return static_cast<const F*>(array)[array_channel]; });
    });
  }
}

}  // namespace

void run(const ChannelMoments& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(moments, p, begin, end)
}
void run(const ChannelSums& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(sums, p, begin, end) }
void run(const ChannelAffine& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(affine, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
