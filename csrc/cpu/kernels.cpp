// The CPU's kernels: for each op, the object file of the chosen ISA, run over torch's threads.
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "../common/stable.h"
#include "../op/conv2d.h"
#include "attention.h"
#include "channels.h"
#include "dense.h"
#include "depthwise.h"
#include "dots.h"
#include "isa.h"
#include "layer_norm.h"
#include "outer.h"
#include "pool2d.h"
#include "product.h"
#include "recurrent.h"
#include "separable.h"
#include "window_bias.h"
#include "winograd.h"

namespace torchext {
namespace cpu {
namespace {

std::atomic<Isa> chosen_isa{best_isa()};

// A forked child of a process with running threads would wait for ever for OpenMP's pool, which did
// not survive the fork: it runs serially.
std::atomic<bool> pool_lost{false};

void watch_forks() {
  static std::atomic<bool> threads_at_fork{false};
  pthread_atfork(
      [] {
        std::error_code error;
        int threads = 0;
        for (std::filesystem::directory_iterator it("/proc/self/task", error), end; it != end;
             it.increment(error)) {
          ++threads;
        }
        threads_at_fork = error || threads != 1;
      },
      nullptr, [] { pool_lost = pool_lost || threads_at_fork; });
}

const bool watching = (watch_forks(), true);

template <class P>
void parallel(const P& p, void (*kernel)(const P&, int64_t, int64_t)) {
  const Split split = split_of(p);
  if (pool_lost || split.pieces <= split.grain) {
    kernel(p, 0, split.pieces);
  } else {
    parallel_for(0, split.pieces, split.grain,
                 [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  }
}

}  // namespace

#define DECLARE_KERNEL(isa, Parameters)          \
  namespace isa {                                \
  void run(const Parameters&, int64_t, int64_t); \
  }
}  // namespace cpu

bool takes_pairs() { return cpu::chosen_isa == cpu::Isa::avx512_bf16; }

// One line per kernel: its parameters name it.
#if defined(__x86_64__)
#define CPU_KERNEL(Parameters)                                                  \
  namespace cpu {                                                               \
  DECLARE_KERNEL(generic, Parameters)                                           \
  DECLARE_KERNEL(avx2, Parameters)                                              \
  DECLARE_KERNEL(avx512, Parameters)                                            \
  }                                                                             \
  void launch(const Parameters& p, const Queue&) {                              \
    static constexpr void (*kernels[])(const Parameters&, int64_t, int64_t) = { \
        cpu::generic::run, cpu::avx2::run, cpu::avx512::run, cpu::avx512::run}; \
    cpu::parallel(p, kernels[static_cast<int>(cpu::chosen_isa.load())]);        \
  }
#else
#define CPU_KERNEL(Parameters)                       \
  namespace cpu {                                    \
  DECLARE_KERNEL(generic, Parameters)                \
  }                                                  \
  void launch(const Parameters& p, const Queue&) {   \
    cpu::parallel<Parameters>(p, cpu::generic::run); \
  }
#endif

CPU_KERNEL(MaxPool2d)
CPU_KERNEL(MaxPool2dBackward)
CPU_KERNEL(MaxPool2dIndices)
CPU_KERNEL(AvgPool2d)
CPU_KERNEL(AvgPool2dBackward)
CPU_KERNEL(Activate)
CPU_KERNEL(ActivateBackward)
CPU_KERNEL(LayerNorm)
CPU_KERNEL(LocalResponseNorm)
CPU_KERNEL(LocalResponseNormBackward)
CPU_KERNEL(Softmax)
CPU_KERNEL(SoftmaxBackward)
CPU_KERNEL(BinaryCrossEntropy)
CPU_KERNEL(Dropout)

// What the launches in launch/ are made of.
using cpu::AttentionForward;
using cpu::AttentionGradients;
using cpu::AttentionMaskGradient;
using cpu::ChannelAffine;
using cpu::ChannelMoments;
using cpu::ChannelSums;
using cpu::ColumnSums;
using cpu::Combinations;
using cpu::Depthwise;
using cpu::DepthwiseWeight;
using cpu::Dots;
using cpu::Image;
using cpu::LayerNormRows;
using cpu::Outer;
using cpu::OuterSums;
using cpu::Panels;
using cpu::Product;
using cpu::RecurrentStep;
using cpu::RecurrentStepBackward;
using cpu::Separable;
using cpu::WindowBias;
using cpu::WindowBiasGradient;
using cpu::Winograd;
CPU_KERNEL(CrossEntropyForward)
CPU_KERNEL(CrossEntropyBackward)
CPU_KERNEL(ChannelMoments)
CPU_KERNEL(ChannelSums)
CPU_KERNEL(ChannelAffine)
CPU_KERNEL(AttentionForward)
CPU_KERNEL(AttentionGradients)
CPU_KERNEL(AttentionMaskGradient)
CPU_KERNEL(WindowBias)
CPU_KERNEL(WindowBiasGradient)
CPU_KERNEL(Image)
CPU_KERNEL(Panels)
CPU_KERNEL(Product)
CPU_KERNEL(Outer)
CPU_KERNEL(OuterSums)
CPU_KERNEL(ColumnSums)
CPU_KERNEL(Depthwise)
CPU_KERNEL(DepthwiseWeight)
CPU_KERNEL(Combinations)
CPU_KERNEL(Dots)
CPU_KERNEL(LayerNormRows)
CPU_KERNEL(RecurrentStep)
CPU_KERNEL(RecurrentStepBackward)
CPU_KERNEL(Separable)
CPU_KERNEL(Winograd)

}  // namespace torchext

// For `torchext info` and the tests, through ctypes: the ISA in use, and a switch that refuses one
// this CPU lacks.
extern "C" __attribute__((visibility("default"))) const char* torchext_cpu_isa() {
  return torchext::cpu::kIsaNames[static_cast<int>(torchext::cpu::chosen_isa.load())];
}

extern "C" __attribute__((visibility("default"))) bool torchext_cpu_use_isa(const char* name) {
  for (int i = 0; i < torchext::cpu::kIsas; ++i) {
    const auto isa = static_cast<torchext::cpu::Isa>(i);
    if (std::strcmp(name, torchext::cpu::kIsaNames[i]) == 0 && torchext::cpu::cpu_has(isa)) {
      torchext::cpu::chosen_isa = isa;
      return true;
    }
  }
  return false;
}
