// The check of one access: alignment, bounds, what is in flight, initialisation, races.
#include <cstdint>
#include <cstring>

#include "counters.h"
#include "machine.h"
#include "memory.h"
#include "races.h"
#include "report.h"
#include "settings.h"

namespace torchext::emulator {
namespace {

struct Marks {
  uint8_t all, any;
};

Marks marks_over(const uint8_t* mark, uint32_t bytes) {
  uint64_t all = ~uint64_t{0}, any = 0;
  uint32_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    uint64_t eight;
    memcpy(&eight, mark + i, 8);
    all &= eight;
    any |= eight;
  }
  for (; i < bytes; ++i) {
    all &= mark[i] * uint64_t{0x0101010101010101};
    any |= mark[i];
  }
  for (int shift : {32, 16, 8}) {
    all &= all >> shift;
    any |= any >> shift;
  }
  return {static_cast<uint8_t>(all), static_cast<uint8_t>(any)};
}

APART void check_unusual(uint8_t any, unsigned flags, uintptr_t address, void* at) {
  const bool writes = flags & kWrites;
  const char* what = writes ? "a store to" : "a load from";
  if ((any & kIsMBarrier) && !(flags & kOfMBarrier)) {
    report("mbarrier", at, "%s an mbarrier, %s", what, describe(address).c_str());
  }
  if ((any & kBeingWritten) && !(flags & kInFlight)) {
    report("in-flight", at, "%s bytes that a copy still writes, %s", what,
           describe(address).c_str());
  }
  if ((any & kBeingRead) && writes) {
    report("in-flight", at, "%s bytes that are still being read, %s", what,
           describe(address).c_str());
  }
  if ((any & kReadOnly) && writes) {
    report("read-only", at, "%s an input, %s", what, describe(address).c_str());
    abort_group();
  }
}

}  // namespace

void check_access(Thread* thread, uintptr_t address, uint32_t bytes, unsigned flags, void* at,
                  uint32_t alignment, const When* when) {
  const bool writes = flags & kWrites, shared = is_shared(address);
  // These end the block before the access is made: it could crash.
  if (address & (alignment - 1)) {
    report("misaligned", at, "%s of %u bytes, %s", writes ? "a store" : "a load", bytes,
           describe(address).c_str());
    abort_group();
  }
  uint8_t* mark = marks_of(address);
  const Marks over = marks_over(mark, bytes);
  if (__builtin_expect(!(over.all & kValid), 0)) {
    report(shared ? "bounds-shared" : "bounds-global", at, "%s of %u bytes, %s",
           writes ? "a store" : "a load", bytes, describe(address).c_str());
    abort_group();
  }
  if (shared && (address - kArena) / kSlot / kMostBlocks != size_t(worker->number)) {
    report("bounds-shared", at, "shared memory of another block");
    abort_group();
  }
  constexpr uint8_t kUnusual = kBeingWritten | kBeingRead | kIsMBarrier | kReadOnly;
  if (__builtin_expect(over.any & kUnusual, 0)) check_unusual(over.any, flags, address, at);
  if (!writes || (flags & kAtomic)) {
    if (__builtin_expect(!(over.all & kInitialised) && !(flags & kUninitialised), 0)) {
      report(shared ? "uninitialised-shared" : "uninitialised-global", at, "a load of %u bytes, %s",
             bytes, describe(address).c_str());
    }
  } else if (!(over.all & kInitialised)) {
    for (uint32_t i = 0; i < bytes; ++i) mark[i] |= kInitialised;
  }
  const Settings& settings = current_settings();
  if (settings.races) {
    check_races(thread, address, bytes, flags, at,
                when ? *when : When{thread->clock, thread->seen});
  }
  if (settings.counts && !(flags & kUncounted)) {
    thread->accesses.push_back(
        {at, address, static_cast<uint16_t>(bytes), writes, shared, (flags & kMatrixRow) != 0});
  }
}

void check_shared(const void* pointer, const char* what, void* at) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (in_arena(address) && is_shared(address)) return;
  report("bounds-shared", at, "%s is not in shared memory", what);
  abort_group();
}

}  // namespace torchext::emulator
