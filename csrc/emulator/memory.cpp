#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>

#include "machine.h"
#include "races.h"

namespace torchext::emulator {
namespace {

constexpr size_t kRedZone = 256;

uint8_t* map_memory(size_t bytes, uintptr_t at, int fixed) {
  void* memory = mmap(reinterpret_cast<void*>(at), bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
  if (memory == MAP_FAILED) {
    perror("torchext: emulator: mmap");
    abort();
  }
  return static_cast<uint8_t*>(memory);
}

struct Buffer {
  size_t bytes;
  std::string name;
};
std::map<uintptr_t, Buffer> buffers;  // by address; nothing allocates while a kernel runs
uintptr_t top = kGlobal;

}  // namespace

uint8_t* const marks =
    (map_memory(kArenaBytes, kArena, MAP_FIXED_NOREPLACE), map_memory(kArenaBytes, 0, 0));

void add_marks(uintptr_t address, size_t bytes, uint8_t which) {
  uint8_t* mark = marks_of(address);
  for (size_t i = 0; i < bytes; ++i) mark[i] |= which;
}

void remove_marks(uintptr_t address, size_t bytes, uint8_t which) {
  uint8_t* mark = marks_of(address);
  for (size_t i = 0; i < bytes; ++i) mark[i] &= ~which;
}

uint8_t* shared_slot(int worker, int block) {
  return reinterpret_cast<uint8_t*>(kArena) + (size_t(worker) * kMostBlocks + block) * kSlot;
}

void clear_shared(uint8_t* slot, uint32_t bytes) {
  uint8_t* mark = marks_of(reinterpret_cast<uintptr_t>(slot));
  memset(mark, kValid, bytes);
  memset(mark + bytes, 0, kSlot - bytes);
  memset(slot, 0xff, bytes);
  forget_accesses(reinterpret_cast<uintptr_t>(slot), bytes);
}

uint8_t* allocate(size_t bytes, const void* alike, const std::string& name) {
  const uintptr_t low = reinterpret_cast<uintptr_t>(alike) % 256;
  const uintptr_t address = (top + kRedZone + 255) / 256 * 256 + low;
  if (address + bytes + kRedZone > kArena + kArenaBytes) {
    throw std::runtime_error("torchext: emulator: its memory of 2 GB is full");
  }
  top = address + bytes;
  buffers[address] = {bytes, name};
  memset(marks_of(address), kValid, bytes);
  memset(reinterpret_cast<void*>(address), 0xff, bytes);
  return reinterpret_cast<uint8_t*>(address);
}

void forget_global_accesses() { forget_accesses(kGlobal, top + kRedZone - kGlobal); }

void free_all() {
  const size_t used = top + kRedZone - kGlobal;
  memset(marks_of(kGlobal), 0, used);
  constexpr size_t kKept = 16 << 20;
  if (used > kKept) {
    madvise(reinterpret_cast<void*>(kGlobal), used, MADV_DONTNEED);
    madvise(marks_of(kGlobal), used, MADV_DONTNEED);
  }
  forget_accesses(kGlobal, used);
  buffers.clear();
  top = kGlobal;
}

std::string describe(uintptr_t address) {
  char text[200];
  if (is_shared(address)) {
    const uintptr_t slot = (address - kArena) % kSlot;
    snprintf(text, sizeof text, "offset %zu of shared memory", size_t(slot));
    return text;
  }
  auto next = buffers.upper_bound(address);
  const auto own = next == buffers.begin() ? buffers.end() : std::prev(next);
  if (own != buffers.end() && address < own->first + own->second.bytes + kRedZone) {
    snprintf(text, sizeof text, "offset %zu of %s, which has %zu bytes",
             size_t(address - own->first), own->second.name.c_str(), own->second.bytes);
  } else if (next != buffers.end()) {
    snprintf(text, sizeof text, "%zu bytes before %s", size_t(next->first - address),
             next->second.name.c_str());
  } else {
    snprintf(text, sizeof text, "%#zx, beyond all buffers", size_t(address));
  }
  return text;
}

}  // namespace torchext::emulator
