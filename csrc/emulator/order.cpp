// Happens-before, by vector clocks. What orders accesses: barriers, __syncwarp, mbarriers, and from
// a fence followed by an atomic to an atomic of the same address followed by a fence. Shuffles and
// votes order nothing.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "machine.h"

namespace torchext::emulator {
namespace {

// All that `thread` has seen, in itself and by its block's barriers.
void merge_seen(const Thread* thread, std::vector<uint32_t>& into) {
  const Block& block = *thread->block;
  const size_t threads = worker->group.threads;
  if (into.size() != threads) into.assign(threads, 0);
  for (size_t i = 0; i < threads; ++i) {
    into[i] = std::max({into[i], thread->seen[i], block.seen.empty() ? 0 : block.seen[i]});
  }
  for (int i = block.first; i < block.first + block.threads; ++i) {
    into[i] = std::max(into[i], block.floor);
  }
  into[thread->in_group] = std::max(into[thread->in_group], thread->clock);
}

std::mutex mutex;
std::unordered_map<uintptr_t, Moments> releases;  // by the atomic's address

}  // namespace

void publish(Thread* thread, std::vector<uint32_t>& into) {
  merge_seen(thread, into);
  ++thread->clock;
}

void acquire(Thread* thread, const std::vector<uint32_t>& from) {
  for (size_t i = 0; i < from.size(); ++i) thread->seen[i] = std::max(thread->seen[i], from[i]);
  thread->seen_beyond_warp = true;
}

void order_lanes(Warp& warp, uint32_t mask) {
  bool beyond = false;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) beyond |= warp.threads[lane].seen_beyond_warp;
  }
  const size_t first = beyond ? 0 : warp.threads[0].in_group;
  const size_t count = beyond ? worker->group.threads : __builtin_popcount(warp.existing);
  std::vector<uint32_t> seen(count);
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Thread& t = warp.threads[lane];
    for (size_t i = 0; i < count; ++i) seen[i] = std::max(seen[i], t.seen[first + i]);
    seen[t.in_group - first] = std::max(seen[t.in_group - first], t.clock);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Thread& t = warp.threads[lane];
    memcpy(t.seen + first, seen.data(), count * sizeof(uint32_t));
    t.seen_beyond_warp |= beyond;
    ++t.clock;
  }
}

void order_block(Block& block) {
  uint32_t latest = 0;
  for (int i = 0; i < block.threads; ++i) latest = std::max(latest, block.thread[i].clock);
  block.floor = latest;
  const bool alone = block.group->blocks == 1;
  for (int i = 0; i < block.threads; ++i) {
    Thread& t = block.thread[i];
    if (t.seen_beyond_warp && !alone) {
      if (block.seen.empty()) block.seen.assign(block.group->threads, 0);
      for (size_t k = 0; k < block.seen.size(); ++k) {
        block.seen[k] = std::max(block.seen[k], t.seen[k]);
      }
    }
    t.clock = latest + 1;
    t.seen_beyond_warp = false;
    block.acquired.insert(block.acquired.end(), t.acquired.begin(), t.acquired.end());
    t.acquired.clear();
  }
}

void fence() {
  Thread* t = current;
  auto moment = std::make_shared<Moment>();
  moment->group = worker->group.number;
  publish(t, moment->seen);
  t->released = std::move(moment);
  for (const auto& other : t->to_acquire) {
    if (other->group == worker->group.number) {
      acquire(t, other->seen);
    } else {
      t->acquired.push_back(other);
    }
  }
  t->to_acquire.clear();
}

// Before an atomic access, so that whoever sees what it wrote acquires this.
void release_by_atomic(Thread* t, uintptr_t address) {
  if (!t->released) return;
  const std::lock_guard<std::mutex> lock(mutex);
  Moments& known = releases[address];
  // What is released includes what was acquired before: from other groups, too.
  const auto add = [&known](const std::shared_ptr<const Moment>& moment) {
    if (std::find(known.begin(), known.end(), moment) == known.end()) known.push_back(moment);
  };
  add(t->released);
  for (const auto& moment : t->acquired) add(moment);
  for (const auto& moment : t->block->acquired) add(moment);
}

// After it: of all that wrote what it saw.
void acquire_by_atomic(Thread* t, uintptr_t address) {
  const std::lock_guard<std::mutex> lock(mutex);
  t->to_acquire = releases[address];
}

void forget_atomics() { releases.clear(); }

}  // namespace torchext::emulator
