/* The machine's two limits: bytes copied and multiply-adds per second, on `threads` threads.
 *
 * Compiled for this very CPU when a benchmark starts (cc -O3 -march=native -fopenmp) and called
 * through ctypes. Each thread copies its own slice `repeats` times, without a barrier: small sizes
 * stay in that core's caches, large ones run from memory. */
#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float Vec __attribute__((vector_size(BYTES)));
enum {
  kLanes = BYTES / 4,
  kSums = 12, /* independent: more than 2 units x 4-5 cycles of latency, below 16 registers */
};

#if defined(__AVX512BF16__)
#include <immintrin.h>
static inline Vec multiply_add_bf16(Vec sum, Vec x, Vec y) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}
double flops_per_step_bf16(void) { return kSums * kLanes * 4.0; }
#else /* no bf16 arithmetic: widened to f32, at the same rate */
static inline Vec multiply_add_bf16(Vec sum, Vec x, Vec y) { return sum * x + y; }
double flops_per_step_bf16(void) { return kSums * kLanes * 2.0; }
#endif
static inline Vec multiply_add_f32(Vec sum, Vec x, Vec y) { return sum * x + y; }
double flops_per_step_f32(void) { return kSums * kLanes * 2.0; }

/* `factor` and `term` come from outside so that nothing can be computed at compile time. */
#define MULTIPLY_ADD(TYPE)                                                                \
  float multiply_add_##TYPE##_peak(float factor, float term, long steps, int threads) {   \
    float total = 0;                                                                      \
    _Pragma("omp parallel num_threads(threads) reduction(+ : total)") {                   \
      Vec sum[kSums], x, y;                                                               \
      for (int i = 0; i < kLanes; i++) x[i] = factor, y[i] = term;                        \
      for (int i = 0; i < kSums; i++) sum[i] = x * (float)i;                              \
      for (long step = 0; step < steps; step++) {                                         \
        _Pragma("GCC unroll 12") for (int i = 0; i < kSums; i++) sum[i] =                 \
            multiply_add_##TYPE(sum[i], x, y);                                            \
      }                                                                                   \
      for (int i = 0; i < kSums; i++) total += sum[i][0];                                 \
    }                                                                                     \
    return total;                                                                         \
  }
MULTIPLY_ADD(f32)
MULTIPLY_ADD(bf16)

void copy(char* to, const char* from, size_t bytes, long repeats, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; t++) {
    size_t begin = bytes * t / threads, end = bytes * (t + 1) / threads;
    for (long i = 0; i < repeats; i++) {
      memcpy(to + begin, from + begin, end - begin);
      __asm__ volatile("" ::: "memory"); /* each of them, not just the last */
    }
  }
}
