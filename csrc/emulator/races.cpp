#include "races.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "memory.h"
#include "report.h"

namespace torchext::emulator {
namespace {

// A record of an access, in a word that workers exchange whole. 0: none.
class Record {
 public:
  Record() = default;
  explicit Record(uint64_t bits) : bits_(bits) {}
  Record(uint32_t group, uint32_t thread, uint32_t clock, bool atomic)
      : bits_(uint64_t{1} << 63 | uint64_t{atomic} << 62 | uint64_t{group & 0xfffff} << 42 |
              uint64_t{thread & 0xffff} << 26 | (clock & 0x3ffffff)) {}
  uint64_t bits() const { return bits_; }
  bool atomic() const { return bits_ >> 62 & 1; }
  uint32_t group() const { return bits_ >> 42 & 0xfffff; }
  uint32_t thread() const { return bits_ >> 26 & 0xffff; }
  uint32_t clock() const { return bits_ & 0x3ffffff; }
  explicit operator bool() const { return bits_ != 0; }

 private:
  uint64_t bits_ = 0;
};

constexpr uint64_t kSplit = 1;  // as a write: see the smaller pieces

struct Cell {
  uint64_t write, reads[2];
};

constexpr int kLevels = 3;
constexpr uint32_t kPiece[kLevels] = {16, 4, 1};

Cell* map_cells(uint32_t piece) {
  void* memory = mmap(nullptr, kArenaBytes / piece * sizeof(Cell), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    perror("torchext: emulator: mmap");
    abort();
  }
  return static_cast<Cell*>(memory);
}
Cell* const cells[kLevels] = {map_cells(16), map_cells(4), map_cells(1)};

uint64_t get(const uint64_t& word) { return __atomic_load_n(&word, __ATOMIC_RELAXED); }
void set(uint64_t& word, uint64_t value) { __atomic_store_n(&word, value, __ATOMIC_RELAXED); }

// An access that is being made.
struct Present {
  const Thread* thread;
  When now;
  Record record;
  bool writes;
  uintptr_t address;
  void* at;

  bool saw(const Record& other) const {
    const Block& block = *thread->block;
    const uint32_t whose = other.thread(), clock = other.clock();
    if (other.group() != record.group()) return saw_beyond_group(other);
    if (whose == record.thread()) return true;
    if (whose - block.first < uint32_t(block.threads)) {
      if (clock <= block.floor) return true;
    } else if (!block.seen.empty() && clock <= block.seen[whose]) {
      return true;
    }
    return clock <= now.seen[whose];
  }
  bool races_with(const Record& other) const {
    return other && !(other.atomic() && record.atomic()) && !saw(other);
  }

 private:
  APART bool saw_beyond_group(const Record& other) const {
    const Moments* const both[] = {&thread->acquired, &thread->block->acquired};
    for (const Moments* moments : both) {
      for (const auto& moment : *moments) {
        if ((moment->group & 0xfffff) == other.group() &&
            other.clock() <= moment->seen[other.thread()]) {
          return true;
        }
      }
    }
    return false;
  }
};

APART void report_race(const Present& p, const char* what, const Record& other) {
  report(is_shared(p.address) ? "race-shared" : "race-global", p.at,
         "%s at %s, by thread %u of the group, block group %u", what, describe(p.address).c_str(),
         other.thread(), other.group());
}

// False once a race was reported: an access is reported once.
bool check_cell(Cell& cell, const Present& p) {
  const uint64_t own = p.record.bits();
  const Record write(get(cell.write));
  if (write.bits() != own && p.races_with(write)) {
    report_race(p, p.writes ? "a write beside another write" : "a read beside a write", write);
    set(cell.write, own);
    return false;
  }
  if (p.writes) {
    for (uint64_t& read : cell.reads) {
      const Record other(get(read));
      if (!other) continue;
      set(read, 0);
      if (p.races_with(other)) {
        report_race(p, "a write beside a read", other);
        return false;
      }
    }
    set(cell.write, own);
    return true;
  }
  const Record first(get(cell.reads[0])), second(get(cell.reads[1]));
  if (first.bits() == own || second.bits() == own) return true;
  // What happened before this read is no more likely to race than this read is.
  const bool replaces_first = !first || p.saw(first);
  const bool replaces_second = !second || p.saw(second) || (worker->random() & 1);
  if (replaces_first) {
    set(cell.reads[0], own);
  } else if (replaces_second) {
    set(cell.reads[1], own);
  }
  return true;
}

void split(Cell& cell, int level, size_t index) {
  const uint32_t parts = kPiece[level] / kPiece[level + 1];
  const uint64_t write = get(cell.write);
  if (write == kSplit) return;  // another worker was faster
  for (uint32_t i = 0; i < parts; ++i) {
    Cell& part = cells[level + 1][index * parts + i];
    part = {write, {get(cell.reads[0]), get(cell.reads[1])}};
  }
  __atomic_store_n(&cell.write, kSplit, __ATOMIC_RELEASE);
}

template <class Act>
bool each_cell(size_t offset, size_t end, int level, const Act& act) {
  for (const uint32_t piece = kPiece[level]; offset < end;) {
    const size_t index = offset / piece, next = (index + 1) * piece;
    Cell& cell = cells[level][index];
    const bool whole = offset % piece == 0 && next <= end;
    const bool is_split = __atomic_load_n(&cell.write, __ATOMIC_ACQUIRE) == kSplit;
    if (whole && !is_split) {
      if (!act(cell)) return false;
    } else {
      if (!is_split) split(cell, level, index);
      if (!each_cell(offset, next < end ? next : end, level + 1, act)) return false;
    }
    offset = next;
  }
  return true;
}

}  // namespace

void forget_accesses(uintptr_t address, size_t bytes) {
  // The smaller pieces are made anew from the larger ones.
  Cell* first = cells[0] + (address - kArena) / kPiece[0];
  const size_t size = (bytes + kPiece[0] - 1) / kPiece[0] * sizeof(Cell);
  constexpr size_t kMuch = 16 << 20;
  if (size < kMuch) {
    memset(first, 0, size);
  } else {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(first) + 4095) / 4096 * 4096;
    memset(first, 0, begin - reinterpret_cast<uintptr_t>(first));
    madvise(reinterpret_cast<void*>(begin), size, MADV_DONTNEED);
  }
}

void check_races(const Thread* thread, uintptr_t address, uint32_t bytes, unsigned flags, void* at,
                 const When& now) {
  const Present p{thread,
                  now,
                  {worker->group.number, thread->in_group, now.clock, (flags & kAtomic) != 0},
                  (flags & kWrites) != 0,
                  address,
                  at};
  const size_t offset = address - kArena;
  each_cell(offset, offset + bytes, 0, [&](Cell& cell) { return check_cell(cell, p); });
}

int unfenced_writer(const Group& group, uintptr_t address, uint32_t bytes) {
  int found = -1;
  const size_t offset = address - kArena;
  each_cell(offset, offset + bytes, 0, [&](Cell& cell) {
    const Record write(get(cell.write));
    if (!write || write.atomic() || write.group() != (group.number & 0xfffff)) return true;
    const Block& block = group.block[write.thread() / group.block[0].threads];
    if (write.clock() <= block.thread[write.thread() - block.first].proxy_fence) return true;
    found = static_cast<int>(write.thread());
    return false;
  });
  return found;
}

void note_fenced(uintptr_t address, uint32_t bytes) {
  const size_t offset = address - kArena;
  each_cell(offset, offset + bytes, 0, [](Cell& cell) {
    set(cell.write, get(cell.write) | uint64_t{1} << 62);
    return true;
  });
}

}  // namespace torchext::emulator
