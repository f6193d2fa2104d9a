// Memory that a launch needs for its duration.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "../../common/check.h"
#include "../product.h"

namespace torchext::cpu {

// Memory of the type computed in, aligned to cache lines; a tile may read a panel's row beyond it.
class Scratch {
 public:
  Scratch(DType dtype, int64_t a, int64_t b = 1, int64_t c = 1, int64_t d = 1) {
    int64_t bytes = compute_size(dtype);
    for (const int64_t size : {a, b, c, d}) bytes = mul("torchext", "scratch memory", bytes, size);
    memory_.reset(std::aligned_alloc(64, (bytes + kPanelBytes + 63) / 64 * 64));
    if (!memory_) throw std::bad_alloc();
  }
  void* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
};

}  // namespace torchext::cpu
