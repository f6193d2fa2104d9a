// Memory that a launch needs for its duration. What is freed is kept for the thread's next launch:
// fresh pages cost more than most kernels take to fill them.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "../../common/check.h"
#include "../product.h"

namespace torchext::cpu {

class Scratch {
 public:
  // Room for a * b * c * d numbers of the type computed in, aligned to cache lines; a tile may read
  // a panel's row beyond it.
  Scratch(DType dtype, int64_t a, int64_t b = 1, int64_t c = 1, int64_t d = 1) {
    int64_t bytes = compute_size(dtype);
    for (const int64_t size : {a, b, c, d}) bytes = mul("torchext", "scratch memory", bytes, size);
    memory_ = kept().take((bytes + kPanelBytes + 63) / 64 * 64);
  }
  ~Scratch() { kept().give(memory_); }
  Scratch(Scratch&& other) : memory_(std::exchange(other.memory_, {})) {}
  Scratch& operator=(Scratch&&) = delete;
  void* get() const { return memory_.start; }

 private:
  struct Block {
    void* start = nullptr;
    int64_t bytes = 0;
  };

  class Kept {
   public:
    ~Kept() {
      for (const Block& block : blocks_) std::free(block.start);
    }

    // The smallest block that is large enough, or a new one.
    Block take(int64_t bytes) {
      size_t best = blocks_.size();
      for (size_t i = 0; i < blocks_.size(); ++i) {
        const bool fits = blocks_[i].bytes >= bytes;
        if (fits && (best == blocks_.size() || blocks_[i].bytes < blocks_[best].bytes)) best = i;
      }
      if (best == blocks_.size()) {
        void* start = std::aligned_alloc(64, bytes);
        if (start == nullptr) throw std::bad_alloc();
        return {start, bytes};
      }
      const Block block = blocks_[best];
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(best));
      bytes_ -= block.bytes;
      return block;
    }

    void give(Block block) {
      if (block.start == nullptr) return;
      blocks_.push_back(block);
      bytes_ += block.bytes;
      while (bytes_ > kMostKept) {  // the oldest go first
        std::free(blocks_.front().start);
        bytes_ -= blocks_.front().bytes;
        blocks_.erase(blocks_.begin());
      }
    }

   private:
#if defined(__SANITIZE_ADDRESS__)
    static constexpr int64_t kMostKept = 0;  // so that what is used after it was freed shows
#else
    static constexpr int64_t kMostKept = 64 << 20;
#endif
    std::vector<Block> blocks_;
    int64_t bytes_ = 0;
  };

  static Kept& kept() {
    thread_local Kept kept;
    return kept;
  }

  Block memory_;
};

// The calling thread's own memory, kept for its next pieces; null where there is none left: kernels
// don't throw.
inline void* thread_memory(int64_t bytes) {
  struct Kept {
    ~Kept() { std::free(start); }
    void* start = nullptr;
    int64_t bytes = 0;
  };
  thread_local Kept kept;
  if (kept.bytes < bytes) {
    std::free(kept.start);
    kept.bytes = (bytes + 63) / 64 * 64;
    kept.start = std::aligned_alloc(64, kept.bytes);
    if (kept.start == nullptr) kept.bytes = 0;
  }
  return kept.start;
}

}  // namespace torchext::cpu
