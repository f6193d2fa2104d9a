// Pack<T, N>: N neighbouring elements, moved between global memory and registers by the widest
// accesses their size allows: 16 bytes each, or one of 8, 4, 2 or 1.
#pragma once

#include "number.cuh"

namespace torchext::tile {

template <int Bytes>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<1> {
  using type = uint8_t;
};

// Bytes of one access, which are also the alignment that an address needs.
template <class T, int N>
constexpr int kAccessBytes = sizeof(T) * N < 16 ? sizeof(T) * N : 16;

template <class T, int N>
struct Pack {
  using Word = typename WordOf<kAccessBytes<T, N>>::type;
  static constexpr int kWords = sizeof(T) * N / sizeof(Word);
  static_assert(kWords * sizeof(Word) == sizeof(T) * N, "a pack is whole accesses");
  T lanes[N];
};

// One access. In an emulated one the compiler may not take the word apart.
template <class Word>
__device__ __forceinline__ Word load_word(const Word* from) {
#if TORCHEXT_EMULATED
  Word word;
  emulator::load(&word, from, sizeof word);
  return word;
#else
  return *from;
#endif
}
template <class Word>
__device__ __forceinline__ void store_word(Word* to, const Word& word) {
#if TORCHEXT_EMULATED
  emulator::store(to, &word, sizeof word);
#else
  *to = word;
#endif
}

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  using Word = typename Pack<T, N>::Word;
  Word words[Pack<T, N>::kWords];
#pragma unroll
  for (int k = 0; k < Pack<T, N>::kWords; ++k) {
    words[k] = load_word(reinterpret_cast<const Word*>(from) + k);
  }
  Pack<T, N> pack;
  __builtin_memcpy(&pack, words, sizeof pack);
  return pack;
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
  using Word = typename Pack<T, N>::Word;
  Word words[Pack<T, N>::kWords];
  __builtin_memcpy(words, &pack, sizeof pack);
#pragma unroll
  for (int k = 0; k < Pack<T, N>::kWords; ++k) {
    store_word(reinterpret_cast<Word*>(to) + k, words[k]);
  }
}

// The first `lanes` of a pack, the others 0: at the end of a row.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_part(const T* from, int64_t lanes) {
  if (lanes >= N) return load<N>(from);
  Pack<T, N> pack{};
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < lanes) pack.lanes[k] = from[k];
  }
  return pack;
}

template <class T, int N>
__device__ __forceinline__ void store_part(T* to, const Pack<T, N>& pack, int64_t lanes) {
  if (lanes >= N) return store(to, pack);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < lanes) to[k] = pack.lanes[k];
  }
}

// Rounds N values to the stored type and stores them.
template <int N, class T>
__device__ __forceinline__ void store_narrow(T* to, const Compute<T> (&values)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < N; ++k) pack.lanes[k] = narrow<T>(values[k]);
  store(to, pack);
}

// Whether the data may be accessed as Pack<T, N>, at every multiple of N elements.
template <class T, int N>
bool aligned_for(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kAccessBytes<T, N> == 0;
}

}  // namespace torchext::tile
