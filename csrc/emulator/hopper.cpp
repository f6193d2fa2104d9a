// Hopper: mbarriers, TMA's copies of tiles, and wgmma on tiles with 128-byte swizzle. Copies and
// products are performed when they are waited for, as late as the rules allow; accumulators show
// NaN until then. What the async proxy touches must have been fenced by its writer.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "counters.h"
#include "machine.h"
#include "matrix.h"
#include "memory.h"
#include "races.h"
#include "report.h"
#include "settings.h"

namespace torchext::emulator {
namespace {

uint32_t offset_of(const Block& block, const void* shared) {
  return static_cast<uint32_t>(static_cast<const uint8_t*>(shared) - block.shared);
}

MBarrier& find(const uint64_t* barrier, void* at) {
  Block& block = *current->block;
  const auto known = block.mbarriers.find(offset_of(block, barrier));
  if (known == block.mbarriers.end()) {
    report("mbarrier", at, "used before it was initialised");
    abort_group();
  }
  return known->second;
}

void touch(const uint64_t* barrier, void* at) {
  check_access(current, reinterpret_cast<uintptr_t>(barrier), 8,
               kReads | kAtomic | kUncounted | kOfMBarrier, at, 8);
}

void complete_phase(MBarrier& m, void* at) {
  if (m.pending || m.bytes > 0) return;
  if (m.bytes < 0) {
    report("transaction", at, "%lld bytes more have arrived than were announced",
           static_cast<long long>(-m.bytes));
    abort_group();
  }
  m.pending = m.count;
  ++m.phase;
  std::vector<Thread*> waiting;
  for (Thread* t : m.waiting) {
    if ((m.phase & 1) == t->waits_parity) {
      waiting.push_back(t);
    } else {
      acquire(t, m.seen);
      wake(t);
    }
  }
  m.waiting.swap(waiting);
}

void arrive_at(MBarrier& m, void* at) {
  if (!m.pending) {
    report("mbarrier", at, "more arrivals than its count, %u", m.count);
    abort_group();
  }
  publish(current, m.seen);
  --m.pending;
  complete_phase(m, at);
}

// As if `thread` ran: what it asked for is done in its name.
struct InTheNameOf {
  explicit InTheNameOf(Thread* thread) : before(current) { current = thread; }
  ~InTheNameOf() { current = before; }
  Thread* before;
};

constexpr uint32_t kStep = 16;  // bytes that are checked at once

void land(const PendingTile& tile) {
  Thread* t = tile.issuer;
  const TensorMap& map = tile.map;
  const uint32_t row_bytes = map.box_columns * map.element_bytes, bytes = row_bytes * map.box_rows;
  const When then{tile.clock, tile.seen.data()};
  for (uint32_t k = 0; k < bytes; k += kStep) {
    check_access(t, tile.to + k, kStep, kWrites | kUncounted | kInFlight, tile.at, 1, &then);
  }
  const uint32_t base = offset_of(*tile.block, reinterpret_cast<void*>(tile.to));
  for (uint32_t row = 0; row < map.box_rows; ++row) {
    for (uint32_t x = 0; x < row_bytes; x += map.element_bytes) {
      const int64_t from_row = int64_t{tile.row} + row,
                    from_column = int64_t{tile.column} + x / map.element_bytes;
      const uint32_t plain = base + row * row_bytes + x;
      uint8_t* to = tile.block->shared + (map.swizzle ? swizzled(plain) : plain);
      if (from_row < 0 || from_column < 0 || uint64_t(from_row) >= map.rows ||
          uint64_t(from_column) >= map.columns) {
        memset(to, 0, map.element_bytes);  // what lies outside counts as copied, too
        continue;
      }
      const uintptr_t from = reinterpret_cast<uintptr_t>(map.base) + from_row * map.row_bytes +
                             from_column * map.element_bytes;
      check_access(t, from, map.element_bytes, kReads | kUncounted, tile.at, 1, &then);
      memcpy(to, reinterpret_cast<const void*>(from), map.element_bytes);
    }
  }
  remove_marks(tile.to, bytes, kBeingWritten);
  note_fenced(tile.to, bytes);
  MBarrier& m = *tile.barrier;
  m.seen.resize(worker->group.threads);
  m.seen[t->in_group] = std::max(m.seen[t->in_group], tile.clock);
  m.bytes -= bytes;
}

}  // namespace

APART void init_barrier(uint64_t* barrier, uint32_t arrivals) {
  Thread* t = current;
  check_shared(barrier, "an mbarrier", CALLER);
  const auto address = reinterpret_cast<uintptr_t>(barrier);
  check_access(t, address, 8, kWrites | kUncounted, CALLER, 8);
  add_marks(address, 8, kIsMBarrier);
  MBarrier& m = t->block->mbarriers[offset_of(*t->block, barrier)];
  if (!m.waiting.empty()) report("mbarrier", CALLER, "initialised while threads wait for it");
  m = MBarrier{};
  m.offset = offset_of(*t->block, barrier);
  m.count = m.pending = arrivals;
  m.made_by = t->in_group;
  m.made_at = t->clock;
}

APART void arrive(uint64_t* barrier) {
  touch(barrier, CALLER);
  arrive_at(find(barrier, CALLER), CALLER);
  maybe_give_way();
}

APART void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  touch(barrier, CALLER);
  MBarrier& m = find(barrier, CALLER);
  m.bytes += bytes;
  arrive_at(m, CALLER);
  maybe_give_way();
}

APART void wait(uint64_t* barrier, uint32_t parity) {
  touch(barrier, CALLER);
  MBarrier& m = find(barrier, CALLER);
  if ((m.phase & 1) != parity) {
    acquire(current, m.seen);
    maybe_give_way();
    return;
  }
  current->waits_mbarrier = &m;
  current->waits_parity = parity;
  m.waiting.push_back(current);
  wait_as(Waiting::mbarrier, CALLER, m.offset);
}

void fence_async_proxy() { current->proxy_fence = current->clock++; }

APART void copy_tile(void* shared, const TensorMap* map, uint64_t* barrier, int column, int row) {
  Thread* t = current;
  void* at = CALLER;
  const auto to = reinterpret_cast<uintptr_t>(shared);
  const uint32_t bytes = map->box_rows * map->box_columns * map->element_bytes;
  check_shared(shared, "the destination of TMA", at);
  const uint32_t alignment = map->swizzle ? 1024 : 128;
  if (to % alignment) {
    report("misaligned", at, "the destination of TMA needs %u bytes of alignment, %s", alignment,
           describe(to).c_str());
    abort_group();
  }
  touch(barrier, at);
  MBarrier& m = find(barrier, at);
  const Block& first = worker->group.block[m.made_by / t->block->threads];
  if (m.made_at > first.thread[m.made_by - first.first].proxy_fence) {
    report("proxy-fence", at, "no fence between the mbarrier's initialisation and its use by TMA");
  }
  for (uint32_t k = 0; k < bytes; k += kStep) {
    check_access(t, to + k, kStep, kWrites | kUncounted, at, 1);
  }
  add_marks(to, bytes, kBeingWritten);
  worker->group.tiles.push_back({&m, t->block, *map, to, column, row, t, t->clock,
                                 std::vector<uint32_t>(t->seen, t->seen + worker->group.threads),
                                 at});
  ++t->clock;  // the copy is an event of its own
}

bool land_a_tile(Group& group) {
  if (group.tiles.empty()) return false;
  const size_t i = worker->random() % group.tiles.size();
  const PendingTile tile = std::move(group.tiles[i]);
  group.tiles.erase(group.tiles.begin() + static_cast<long>(i));
  // Called from outside of all fibers: what aborts the group must not switch away from one.
  const InTheNameOf issuer(tile.issuer);
  land(tile);
  MBarrier& m = *tile.barrier;
  if (!m.pending && m.bytes < 0) {
    report("transaction", tile.at, "%lld bytes more have arrived than were announced",
           static_cast<long long>(-m.bytes));
    group.aborted = true;
    return true;
  }
  complete_phase(m, tile.at);
  return true;
}

// ---- wgmma m64nNk16: A and B in shared memory, K-major

namespace {

constexpr int kWarpgroup = 128, kRows = 64, kDepth = 16;

uint8_t* operand(const Block& block, uint64_t descriptor, int row, int k) {
  return block.shared + (operand_address(descriptor, row, k) - kSharedBase);
}

// The 16-byte pieces of both operands.
template <class Act>
void each_piece(const Block& block, const PendingProduct& p, const Act& act) {
  for (int side = 0; side < 2; ++side) {
    for (int row = 0; row < (side ? p.columns : kRows); ++row) {
      for (int k = 0; k < kDepth; k += 8) {
        act(reinterpret_cast<uintptr_t>(operand(block, side ? p.b : p.a, row, k)));
      }
    }
  }
}

void hide(PendingProduct& p) {
  p.values.assign(p.d, p.d + p.columns / 2);
  std::fill_n(p.d, p.columns / 2, std::nanf(""));
}

void perform(Thread* first, size_t which) {
  const Block& block = *first->block;
  const PendingProduct& p = first->products[which];
  float a[kRows][kDepth], b[256][kDepth];
  for (int side = 0; side < 2; ++side) {
    for (int row = 0; row < (side ? p.columns : kRows); ++row) {
      for (int k = 0; k < kDepth; ++k) {
        uint16_t bits;
        memcpy(&bits, operand(block, side ? p.b : p.a, row, k), sizeof bits);
        (side ? b : a)[row][k] = widened(p.type, bits, 0);
      }
    }
  }
  each_piece(block, p, [&](uintptr_t address) {
    check_access(first, address, 16, kReads | kUncounted, p.at, 1);
  });
  for (int i = 0; i < kWarpgroup; ++i) {
    PendingProduct& own = first[i].products[which];
    std::copy(own.values.begin(), own.values.end(), own.d);
    for (int x = 0; x < own.columns / 2; ++x) {
      const MatrixPlace at = warpgroup_place(i, x);
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[at.row][k] * b[at.column][k];
      own.d[x] = (own.add ? own.d[x] : 0.0f) + sum;
    }
  }
  count_products(uint64_t{2} * kRows * p.columns * kDepth);
}

// All groups of products but the last `left`, of the warpgroup that begins with `first`.
void perform_all_but(Thread* first, int left, void* at) {
  const size_t count = first->products.size();
  for (int i = 1; i < kWarpgroup; ++i) {
    bool same = first[i].products.size() == count && first[i].product_group == first->product_group;
    for (size_t k = 0; same && k < count; ++k) {
      same = first[i].products[k].a == first->products[k].a &&
             first[i].products[k].b == first->products[k].b;
    }
    if (!same) {
      report("wgmma", at, "threads of a warpgroup issued different products");
      abort_group();
    }
  }
  size_t done = 0;
  while (done < count && first->products[done].group < first->product_group - left) {
    perform(first, done++);
  }
  for (size_t k = 0; k < done; ++k) {
    each_piece(*first->block, first->products[k],
               [](uintptr_t address) { remove_marks(address, 16, kBeingRead); });
  }
  for (int i = 0; i < kWarpgroup; ++i) {
    auto& products = first[i].products;
    products.erase(products.begin(), products.begin() + static_cast<long>(done));
    for (size_t k = 0; done && k < products.size(); ++k) {
      if (i == 0) {  // pieces may be read by several
        each_piece(*first->block, products[k],
                   [](uintptr_t address) { add_marks(address, 16, kBeingRead); });
      }
      const bool earlier = std::any_of(products.begin(), products.begin() + static_cast<long>(k),
                                       [&](auto& other) { return other.d == products[k].d; });
      if (!earlier && products[k].values.empty()) hide(products[k]);
    }
  }
}

}  // namespace

void fence_warpgroup() { current->warpgroup_fenced = true; }

APART void multiply_warpgroup(Number type, float* d, int columns, uint64_t a, uint64_t b,
                              bool add) {
  Thread* t = current;
  void* at = CALLER;
  if (!t->warpgroup_fenced) {
    report("wgmma", at, "no wgmma.fence before");
    t->warpgroup_fenced = true;
  }
  if (a >> 62 != 1 || b >> 62 != 1) {
    report("wgmma", at, "a descriptor of another layout than 128-byte swizzle");
    abort_group();
  }
  PendingProduct product{d, {}, columns, t->product_group, a, b, add, type, at};
  if (t->in_block % kWarpgroup == 0) {
    each_piece(*t->block, product, [&](uintptr_t address) {
      if (address - reinterpret_cast<uintptr_t>(t->block->shared) >= kSlot) {
        report("bounds-shared", at, "a descriptor points outside of shared memory");
        abort_group();
      }
      check_access(t, address, 16, kReads | kUncounted, at, 1);
      const int writer =
          current_settings().races ? unfenced_writer(worker->group, address, 16) : -1;
      if (writer >= 0) {
        report("proxy-fence", at, "%s was written by thread %d without fence.proxy.async",
               describe(address).c_str(), writer);
      }
      add_marks(address, 16, kBeingRead);
    });
  }
  const bool pending = std::any_of(t->products.begin(), t->products.end(),
                                   [d](const PendingProduct& other) { return other.d == d; });
  if (!pending) hide(product);
  t->products.push_back(std::move(product));
}

void commit_warpgroup() {
  ++current->product_group;
  current->warpgroup_fenced = false;
}

APART void wait_for_warpgroup(int groups_left) {
  Thread* t = current;
  void* at = CALLER;
  const uint32_t number = t->in_block / kWarpgroup;
  auto& waiting = t->block->warpgroup[number];
  waiting.push_back(t);
  if (waiting.size() < kWarpgroup) {
    wait_as(Waiting::warpgroup, at, number);
    return;
  }
  const auto all = std::move(waiting);
  waiting.clear();
  perform_all_but(&t->block->thread[number * kWarpgroup], groups_left, at);
  for (Thread* other : all) {
    if (other != t) wake(other);
  }
  maybe_give_way();
}

}  // namespace torchext::emulator
