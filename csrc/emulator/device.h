// Tensors of an op, as the machine sees them: copies in its own memory, of which every byte that a
// tensor does not have is out of bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace torchext::emulator {

// One call of an op: from the first tensor to the result. Calls take turns.
class Call {
 public:
  Call();
  ~Call();
  Call(const Call&) = delete;
};

struct View {
  void* data;
  std::vector<int64_t> sizes, strides;  // in elements
  int64_t element_bytes;
  std::shared_ptr<const void> owner;  // keeps the data
};

// Where kernels find the tensor. What they may write is copied back after each launch.
void* adopt(const View& view, bool writable);
// What the finding calls it; for a fresh one, whose content is no number yet.
void name(const void* data, const char* name);
void note_fresh(const void* data, const char* name);
// A host function wrote a tensor that was fresh or is adopted.
void note_written(const void* data);

// Around each launch.
void bring_in();
void bring_out();

}  // namespace torchext::emulator
