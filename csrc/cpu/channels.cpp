// Sums over channels and functions of channels on the CPU. With S adjacent a channel is a row; with
// C adjacent lanes run along the channels and sums go down the pixels.
#include "channels.h"

#include "activation.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr int64_t kPixelsAtOnce = 128;  // summed by themselves first: long sums stay precise

// Neighbouring vectors, which a pass over pixels takes together: whole cache lines, and sums that
// need not wait for each other.
template <class V, int U>
struct Vectors {
  V of[U];
  void operator+=(const Vectors& more) {
    for (int j = 0; j < U; ++j) of[j] += more.of[j];
  }
};
template <int U, class Function>
INLINE auto vectors(Function function) {
  Vectors<decltype(function(0)), U> made{};
  for (int j = 0; j < U; ++j) made.of[j] = function(j);
  return made;
}

// function(offset of the first pixel's vectors in x, their channel in [N, C], how many they are,
// Whole or Part) for the vectors of channels of channels_last pieces.
template <class T, class Function>
INLINE void for_each_channel_vector(const Channels& p, int64_t begin, int64_t end,
                                    Function function) {
  constexpr int N = kLanes<T>, U = 4;
  const int64_t blocks = ceil_div(p.C, kChannels);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t n = piece / blocks, c = piece % blocks * kChannels;
    const int64_t at = n * p.S * p.C + c, channel = n * p.C + c, count = min_of(kChannels, p.C - c);
    int64_t k = 0;
    for (; k + U * N <= count; k += U * N) function(at + k, channel + k, Constant<U>{}, Whole{});
    for_each_vector<T>(count - k, [&](int64_t more, auto part) {
      function(at + k + more, channel + k + more, Constant<1>{}, part);
    });
  }
}

// The sum of function(s) over all pixels.
template <class V, class Function>
INLINE V sum_over_pixels(int64_t S, Function function) {
  V sum{};
  for (int64_t s = 0; s < S;) {
    V some{};
    for (const int64_t stop = min_of(S, s + kPixelsAtOnce); s < stop; ++s) some += function(s);
    sum += some;
  }
  return sum;
}

template <class T>
static void moments(const ChannelMoments& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  using V = RowVector<T>;
  F *means = static_cast<F*>(p.mean), *all_squares = static_cast<F*>(p.squares);
  if (p.channels_last) {
    for_each_channel_vector<T>(p, begin, end, [&](int64_t at, int64_t channel, auto u, auto part) {
      constexpr int U = decltype(u)::value, N = kLanes<T>;
      using Many = Vectors<V, U>;
      const T* x = static_cast<const T*>(p.x) + at;
      Many mean = sum_over_pixels<Many>(p.S, [&](int64_t s) {
        return vectors<U>([&](int j) { return load_row(x + s * p.C + j * N, part); });
      });
      for (V& m : mean.of) m /= static_cast<F>(p.S);
      const Many squares = sum_over_pixels<Many>(p.S, [&](int64_t s) {
        return vectors<U>([&](int j) {
          const V d = load_row(x + s * p.C + j * N, part) - mean.of[j];
          return d * d;
        });
      });
      for (int j = 0; j < U; ++j) {
        store_row(means + channel + j * N, mean.of[j], part);
        store_row(all_squares + channel + j * N, squares.of[j], part);
      }
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
  return times_derivative(activation, g, derivative(activation, u));
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
    for_each_channel_vector<T>(p, begin, end, [&](int64_t at, int64_t channel, auto u, auto part) {
      constexpr int U = decltype(u)::value, N = kLanes<T>;
      const int64_t array_channel = array_index(p, channel);
      const auto sum = sum_over_pixels<Vectors<Sums<V>, U>>(p.S, [&](int64_t s) {
        return vectors<U>([&](int j) {
          return products<T>(p, at + s * p.C + j * N, part, [&](const void* array) {
            return load_row(static_cast<const F*>(array) + array_channel + j * N, part);
          });
        });
      });
      for (int j = 0; j < U; ++j) {
        store_row(all_of_g + channel + j * N, sum.of[j].of_g, part);
        store_row(all_of_products + channel + j * N, sum.of[j].of_products, part);
      }
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

template <class T>
static void affine(const ChannelAffine& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  if (p.channels_last) {
    const int64_t stop = min_of(end * kPixels, p.N * p.S);
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
