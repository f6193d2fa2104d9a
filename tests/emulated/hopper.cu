// c = a * b^T of bf16 by Hopper's means, for the emulator's tests: one warp brings tiles by TMA, a
// warpgroup multiplies them by wgmma, mbarriers pass stages to and fro. `bug` leaves something out.
#include <cstring>
#include <string>

namespace emulator = torchext::emulator;

enum Bug {
  kNone,
  kExpectsMore,
  kExpectsLess,
  kWrongParity,
  kInitUnfenced,
  kInitUnsynchronised,
  kIgnoresEmpty,
  kIgnoresFull,
  kReleasesEarly,
  kNeverWaits,
  kUnfenced,
  kWrongStride,
  kKeepsSums,
  kPlainStoreUnfenced,
  kTouchesBarrier,
  kMisalignedTile,
};

constexpr int kM = 64, kN = 64, kK = 64, kStages = 2, kTile = kM * kK * 2;

struct Product {
  emulator::TensorMap a, b;
  float* c;
  int steps, columns, bug;
};

static uint64_t descriptor(const void* tile, uint64_t stride) {
  return static_cast<uint64_t>((emulator::shared_address(tile) & 0x3ffff) >> 4) |
         (stride >> 4) << 32 | uint64_t{1} << 62;
}

void product_kernel(Product p) {
  uint8_t* shared = emulator::shared_memory();
  shared += -reinterpret_cast<uintptr_t>(shared) & 1023;
  uint8_t *tiles_a = shared, *tiles_b = shared + kStages * kTile;
  auto* full = reinterpret_cast<uint64_t*>(shared + 2 * kStages * kTile);
  uint64_t* empty = full + kStages;
  const int thread = threadIdx.x, m0 = blockIdx.y * kM, n0 = blockIdx.x * kN;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      emulator::init_barrier(full + s, 1);
      emulator::init_barrier(empty + s, 128);
    }
    if (p.bug != kInitUnfenced) emulator::fence_async_proxy();
  }
  if (p.bug != kInitUnsynchronised) __syncthreads();

  if (thread >= 128) {  // brings tiles
    if (thread > 128) return;
    for (int i = 0; i < p.steps; ++i) {
      const int s = i % kStages, round = i / kStages;
      if (p.bug != kIgnoresEmpty) {
        emulator::wait(empty + s, (round & 1) ^ (p.bug == kWrongParity ? 0 : 1));
      }
      const int more = p.bug == kExpectsMore ? 16 : p.bug == kExpectsLess ? -16 : 0;
      emulator::expect_bytes(full + s, 2 * kTile + more);
      const int shift = p.bug == kMisalignedTile ? 128 : 0;
      emulator::copy_tile(tiles_a + s * kTile + shift, &p.a, full + s, i * kK, m0);
      emulator::copy_tile(tiles_b + s * kTile, &p.b, full + s, i * kK, n0);
    }
    return;
  }

  float sums[kN / 2];
  for (float& sum : sums) sum = 0;
  for (int i = 0; i < p.steps; ++i) {
    const int s = i % kStages, round = i / kStages;
    if (p.bug != kIgnoresFull) emulator::wait(full + s, round & 1);
    if (p.bug == kTouchesBarrier && i == 1) reinterpret_cast<volatile uint8_t*>(full)[0] = 1;
    if (p.bug == kPlainStoreUnfenced) {
      uint32_t word;
      emulator::load(&word, tiles_a + s * kTile + thread * 16, 4);
      emulator::store(tiles_a + s * kTile + thread * 16, &word, 4);
      emulator::meet_some(1, 128, __LINE__);
    }
    if (p.bug != kUnfenced) emulator::fence_warpgroup();
    const uint64_t stride = p.bug == kWrongStride ? 512 : 1024;
    for (int k = 0; k < kK; k += 16) {
      const bool add = i > 0 || k > 0 || p.bug == kKeepsSums;
      emulator::multiply_warpgroup(
          emulator::Number::bf16, sums, kN, descriptor(tiles_a + s * kTile + k * 2, stride),
          descriptor(tiles_b + s * kTile + k * 2, 1024), p.bug == kKeepsSums ? i > 0 : add);
    }
    emulator::commit_warpgroup();
    if (p.bug == kReleasesEarly) emulator::arrive(empty + s);
    if (p.bug != kNeverWaits) emulator::wait_for_warpgroup(0);
    if (p.bug != kReleasesEarly) emulator::arrive(empty + s);
  }
  const int lane = thread % 32, warp = thread / 32;
  for (int x = 0; x < kN / 2; ++x) {
    const int m = m0 + 16 * warp + lane / 4 + 8 * (x >> 1 & 1);
    const int n = n0 + 8 * (x >> 2) + 2 * (lane % 4) + (x & 1);
    p.c[m * p.columns + n] = sums[x];
  }
}

namespace {
struct Bound {
  Product product;
};
std::string found;
void body(const void* bound) { product_kernel(static_cast<const Bound*>(bound)->product); }
}  // namespace

#include "device.h"

// [M][K] and [N][K] of bf16, [M][N] of float; returns what was found, or "".
extern "C" const char* multiply(const void* a, const void* b, float* c, int M, int N, int K,
                                int bug) {
  found.clear();
  const emulator::Call call;
  const auto in = [&](const void* data, int rows) {
    void* at = emulator::adopt({const_cast<void*>(data), {rows, K}, {K, 1}, 2, nullptr}, false);
    return emulator::TensorMap{
        at, static_cast<uint64_t>(rows), static_cast<uint64_t>(K), 2ull * K, kM, kK, 2, 128};
  };
  emulator::note_fresh(c, "c");
  auto* to = static_cast<float*>(emulator::adopt({c, {M, N}, {N, 1}, 4, nullptr}, true));
  const Bound bound{{in(a, M), in(b, N), to, K / kK, N, bug}};
  const emulator::Launch launch{{static_cast<unsigned>(N / kN), static_cast<unsigned>(M / kM), 1},
                                {160, 1, 1},
                                {1, 1, 1},
                                2 * kStages * kTile + 1024 + 64,
                                false,
                                reinterpret_cast<const void*>(product_kernel),
                                body,
                                &bound};
  try {
    emulator::launch(launch);
  } catch (const std::exception& error) {
    found = error.what();
  }
  return found.c_str();
}
