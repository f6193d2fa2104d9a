#include "device.h"

#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory.h"

namespace torchext::emulator {
namespace {

struct Adopted {
  View view;
  uint8_t* copy;
  bool writable;
  std::vector<uint8_t> before;  // the host's bytes when they were last alike
};

std::recursive_mutex mutex;  // an op may call another one
int depth = 0;
std::unordered_map<const void*, std::string> names, fresh;
std::unordered_map<const void*, Adopted> tensors;

void mark_elements(const View& view, uint8_t* at, size_t d, uint8_t which) {
  if (d == view.sizes.size()) {
    add_marks(reinterpret_cast<uintptr_t>(at), static_cast<size_t>(view.element_bytes), which);
    return;
  }
  for (int64_t i = 0; i < view.sizes[d]; ++i) {
    mark_elements(view, at + i * view.strides[d] * view.element_bytes, d + 1, which);
  }
}

int64_t elements(const View& view) {
  int64_t count = 1;
  for (int64_t size : view.sizes) count *= size;
  return count;
}

// From the first element to the end of the last.
size_t bytes_of(const View& view) {
  if (elements(view) == 0) return 0;
  int64_t last = 0;
  for (size_t d = 0; d < view.sizes.size(); ++d) last += (view.sizes[d] - 1) * view.strides[d];
  return static_cast<size_t>((last + 1) * view.element_bytes);
}

// Only the tensor's own elements are valid, not what lies between them.
void mark(const View& view, uint8_t* copy, uint8_t which) {
  const size_t bytes = bytes_of(view);
  if (static_cast<size_t>(elements(view) * view.element_bytes) == bytes) {
    add_marks(reinterpret_cast<uintptr_t>(copy), bytes, which);
  } else {
    mark_elements(view, copy, 0, which);
  }
}

}  // namespace

Call::Call() {
  mutex.lock();
  ++depth;
}

Call::~Call() {
  if (--depth == 0) {
    names.clear();
    fresh.clear();
    tensors.clear();
    free_all();
  }
  mutex.unlock();
}

void name(const void* data, const char* name) { names.emplace(data, name); }
void note_fresh(const void* data, const char* name) { fresh[data] = name; }

void note_written(const void* data) {
  fresh.erase(data);
  const auto known = tensors.find(data);
  if (known != tensors.end()) mark(known->second.view, known->second.copy, kInitialised);
}

void* adopt(const View& view, bool writable) {
  if (view.data == nullptr) return nullptr;
  const size_t bytes = bytes_of(view);
  const auto as_fresh = fresh.find(view.data);
  const bool is_fresh = as_fresh != fresh.end();
  const auto known = tensors.find(view.data);
  if (known != tensors.end() && known->second.before.size() >= bytes) {
    Adopted& a = known->second;
    mark(view, a.copy, kValid | (is_fresh ? 0 : kInitialised) | (a.writable ? 0 : kReadOnly));
    if (writable && !a.writable) {
      a.writable = true;
      remove_marks(reinterpret_cast<uintptr_t>(a.copy), a.before.size(), kReadOnly);
    }
    return a.copy;
  }
  const auto named = names.find(view.data);
  const std::string who = is_fresh               ? as_fresh->second
                          : named != names.end() ? named->second
                                                 : "a tensor";
  uint8_t* copy = allocate(bytes, view.data, who);
  remove_marks(reinterpret_cast<uintptr_t>(copy), bytes, kValid);
  mark(view, copy, kValid | (is_fresh ? 0 : kInitialised) | (writable ? 0 : kReadOnly));
  if (!is_fresh) memcpy(copy, view.data, bytes);
  const auto* host = static_cast<const uint8_t*>(view.data);
  tensors[view.data] = {view, copy, writable, {host, host + bytes}};
  return copy;
}

// A host function may have changed a tensor since.
void bring_in() {
  for (auto& [data, a] : tensors) {
    const size_t bytes = a.before.size();
    if (memcmp(a.before.data(), data, bytes) == 0) continue;
    memcpy(a.copy, data, bytes);
    memcpy(a.before.data(), data, bytes);
  }
}

void bring_out() {
  for (auto& [data, a] : tensors) {
    if (!a.writable) continue;
    const uint8_t* marked = marks_of(reinterpret_cast<uintptr_t>(a.copy));
    auto* host = static_cast<uint8_t*>(const_cast<void*>(data));
    for (size_t i = 0; i < a.before.size(); ++i) {  // what nobody wrote stays what it was
      if (marked[i] & kInitialised) a.before[i] = host[i] = a.copy[i];
    }
  }
}

}  // namespace torchext::emulator
