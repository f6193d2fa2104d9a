// Where threads meet: barriers of a block and of parts of it, and what lanes of a warp do together.
#include <algorithm>
#include <cstdio>
#include <map>

#include "counters.h"
#include "machine.h"
#include "report.h"

namespace torchext::emulator {
namespace {

void release(Block& block, Barrier& barrier) {
  if (barrier.whole) {
    order_block(block);
    for (Warp& warp : block.warp) flush(warp);
  } else {
    for (Thread* t : barrier.waiting) acquire(t, barrier.seen);
  }
  for (Thread* t : barrier.waiting) {
    if (t != current) wake(t);
  }
  barrier = Barrier{};
}

// __syncthreads takes one call for all lanes of a warp.
void check_calls(const Barrier& barrier) {
  std::map<uint32_t, uint32_t> line_of_warp;
  for (const auto& arrival : barrier.arrivals) {
    const auto [known, fresh] = line_of_warp.emplace(arrival.thread / 32, arrival.line);
    if (!fresh && known->second != arrival.line) {
      report("divergent-barrier", arrival.at,
             "lanes of warp %u meet at __syncthreads of lines %u and %u", arrival.thread / 32,
             known->second, arrival.line);
      return;
    }
  }
}

void release_if_full(Block& block, Barrier& barrier) {
  const int needed = barrier.whole ? block.alive : barrier.needed;
  if (barrier.arrived == 0 || barrier.arrived < needed) return;
  if (barrier.whole) {
    if (block.alive != block.threads) {
      report("exited", barrier.arrivals[0].at, "__syncthreads, but %d of %d threads have returned",
             block.threads - block.alive, block.threads);
    }
    check_calls(barrier);
  }
  release(block, barrier);
}

void meet(int number, int threads, bool waits, uint32_t line, void* at) {
  Thread* t = current;
  Block& block = *t->block;
  Barrier& barrier = block.barriers[number];
  const bool whole = threads == 0;
  if (barrier.arrived && (barrier.whole != whole || (!whole && barrier.needed != threads))) {
    report("barrier-mismatch", at, "barrier %d: some threads expect %d, others %d", number,
           barrier.needed, threads);
    abort_group();
  }
  barrier.whole = whole;
  barrier.needed = threads;
  ++barrier.arrived;
  barrier.arrivals.push_back({at, t->in_block, line});
  if (!whole) publish(t, barrier.seen);
  if (waits) barrier.waiting.push_back(t);
  if (barrier.arrived >= (whole ? block.alive : threads)) {
    release_if_full(block, barrier);
    maybe_give_way();
  } else if (waits) {
    wait_as(Waiting::block, at, number);
  }
}

const char* const kMeetings[] = {"__syncwarp", "a shuffle", "a vote", "ldmatrix", "mma"};

}  // namespace

APART void meet_block(unsigned line) { meet(0, 0, true, line, CALLER); }
APART void meet_some(int barrier, int threads, unsigned line) {
  meet(barrier, threads, true, line, CALLER);
}
APART void arrive_some(int barrier, int threads) { meet(barrier, threads, false, 0, CALLER); }

void meet_lanes(int kind, uint32_t mask, void* payload, void* at, Collective act) {
  Thread* t = current;
  Warp& warp = *t->warp;
  mask &= warp.existing;
  if (!(mask >> t->lane & 1)) {
    report("lane-mask", at, "%s of lanes %08x, called by lane %d", kMeetings[kind], mask, t->lane);
    abort_group();
  }
  if (mask & warp.done) {
    report("exited", at, "%s of lanes %08x, of which %08x have returned", kMeetings[kind], mask,
           mask & warp.done);
    abort_group();
  }
  for (uint32_t rest = warp.posted; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const Post& post = warp.posts[lane];
    const bool concerns = (mask >> lane & 1) || (post.mask >> t->lane & 1);
    if (concerns && (post.mask != mask || post.kind != kind)) {
      report("lane-mismatch", at, "lane %d is at %s of lanes %08x, lane %d at %s of lanes %08x",
             t->lane, kMeetings[kind], mask, lane, kMeetings[post.kind], post.mask);
      abort_group();
    }
  }
  warp.posts[t->lane] = {mask, kind, payload, at};
  warp.posted |= 1u << t->lane;
  if ((warp.posted & mask) != mask) {
    wait_as(Waiting::warp, at, mask);
    return;
  }
  warp.posted &= ~mask;
  if (act) act(warp, mask);
  if (kind == kWarp) order_lanes(warp, mask);
  constexpr size_t kMany = 2048;
  if (mask == warp.existing && t->accesses.size() > kMany) flush(warp);
  for (uint32_t rest = mask & ~(1u << t->lane); rest; rest &= rest - 1) {
    wake(&warp.threads[__builtin_ctz(rest)]);
  }
  maybe_give_way();
}

APART void meet_warp(uint32_t mask) { meet_lanes(kWarp, mask, nullptr, CALLER, nullptr); }

namespace {
struct Shuffled {
  Shuffle kind;
  uint32_t value, result;
  int argument, width;
};
struct Voted {
  bool vote;
  uint32_t result;
};
}  // namespace

APART uint32_t shuffle(Shuffle kind, uint32_t mask, uint32_t value, int argument, int width) {
  Shuffled own{kind, value, 0, argument, width};
  meet_lanes(kShuffle, mask, &own, CALLER, [](Warp& warp, uint32_t lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      auto& p = *static_cast<Shuffled*>(warp.posts[lane].payload);
      const int base = lane & ~(p.width - 1), end = base + p.width;
      int from = lane;
      switch (p.kind) {
        case Shuffle::index:
          from = base + (p.argument & (p.width - 1));
          break;
        case Shuffle::up:
          if (lane - p.argument >= base) from = lane - p.argument;
          break;
        case Shuffle::down:
          if (lane + p.argument < end) from = lane + p.argument;
          break;
        case Shuffle::exclusive_or:
          if ((lane ^ p.argument) < end) from = lane ^ p.argument;
          break;
      }
      if (lanes >> from & 1) {
        p.result = static_cast<Shuffled*>(warp.posts[from].payload)->value;
      } else {
        report("inactive-lane", warp.posts[lane].at, "lane %d reads lane %d, which is not of %08x",
               lane, from, lanes);
        p.result = ~0u;
      }
    }
  });
  return own.result;
}

APART uint32_t ballot(uint32_t mask, bool vote) {
  Voted own{vote, 0};
  meet_lanes(kBallot, mask, &own, CALLER, [](Warp& warp, uint32_t lanes) {
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      votes |= uint32_t{static_cast<Voted*>(warp.posts[lane].payload)->vote} << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) static_cast<Voted*>(warp.posts[lane].payload)->result = votes;
    }
  });
  return own.result;
}

uint32_t active_lanes() { return 1u << current->lane; }  // legal: nothing promises more

void leave(Thread* t) {
  Warp& warp = *t->warp;
  Block& block = *t->block;
  if (!t->copies.empty()) {
    report("unwaited", t->copies[0].at, "the thread returns while its cp.async is on its way");
  }
  if (!t->products.empty()) {
    report("unwaited", t->products[0].at, "the thread returns while its wgmma is on its way");
  }
  t->waiting = Waiting::done;
  warp.done |= 1u << t->lane;
  --block.alive;
  for (int lane = 0; lane < 32; ++lane) {
    const Post& post = warp.posts[lane];
    if ((warp.posted >> lane & 1) && (post.mask >> t->lane & 1)) {
      report("exited", post.at, "%s of lanes %08x waits for lane %d, which has returned",
             kMeetings[post.kind], post.mask, t->lane);
      abort_group();
    }
  }
  if (warp.done == warp.existing) flush(warp);
  for (Barrier& barrier : block.barriers) release_if_full(block, barrier);
}

void report_deadlock(Group& group) {
  static const char* const kStates[] = {"ready", "barrier", "warp", "mbarrier", "warpgroup", ""};
  std::map<std::pair<void*, std::string>, int> threads;
  for (const Block& block : group.block) {
    for (int i = 0; i < block.threads; ++i) {
      const Thread& t = block.thread[i];
      if (t.waiting == Waiting::done) continue;
      char words[160];
      int length = snprintf(words, sizeof words, "%s %#zx", kStates[static_cast<int>(t.waiting)],
                            size_t(t.waits_for));
      if (t.waiting == Waiting::mbarrier) {
        const MBarrier& m = *t.waits_mbarrier;
        snprintf(words + length, sizeof words - length,
                 " (waits for parity %u; phase %u, %u arrivals and %lld bytes to come)",
                 t.waits_parity, m.phase, m.pending, static_cast<long long>(m.bytes));
      }
      ++threads[{t.waits_at, words}];
    }
  }
  std::vector<void*> code;
  for (const auto& [place, count] : threads) code.push_back(static_cast<char*>(place.first) - 1);
  const auto places = places_of(code);
  std::string words;
  size_t i = 0;
  for (const auto& [place, count] : threads) {
    words += (i ? "; " : "") + std::to_string(count) + " threads at " + places[i].file + ": " +
             place.second;
    ++i;
  }
  report("deadlock", threads.empty() ? nullptr : threads.begin()->first.first, "%s", words.c_str());
}

}  // namespace torchext::emulator
