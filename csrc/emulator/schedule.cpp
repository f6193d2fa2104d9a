// Who runs next, and launches. A warp runs until none of its lanes can; then another one, at
// random, whose lanes go round from a random one. After every meeting the last to arrive may give
// way.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "counters.h"
#include "device.h"
#include "fiber.h"
#include "machine.h"
#include "memory.h"
#include "report.h"
#include "settings.h"

namespace torchext::emulator {

thread_local Thread* current;
thread_local Worker* worker;

namespace {

constexpr uint32_t kMostClock = 1 << 25;

uint32_t bit(int i) { return 1u << i; }

Thread* next_thread() {
  Warp* warp = worker->warp;
  if (!warp || !warp->ready) {
    Group& group = worker->group;
    const int start = group.blocks > 1 ? static_cast<int>(worker->random() % group.blocks) : 0;
    warp = nullptr;
    for (int i = 0; i < group.blocks && !warp; ++i) {
      Block& block = group.block[(start + i) % group.blocks];
      if (!block.ready_warps) continue;
      const auto skip = static_cast<int>(worker->random() % block.warps);
      const uint32_t rest = block.ready_warps >> skip << skip;
      warp = &block.warp[__builtin_ctz(rest ? rest : block.ready_warps)];
    }
    if (!warp) return nullptr;
    worker->warp = warp;
    warp->first = static_cast<int>(worker->random() & 31);
  }
  const uint32_t rest = warp->ready >> warp->first << warp->first;
  const int lane = __builtin_ctz(rest ? rest : warp->ready);
  warp->ready &= ~bit(lane);
  if (!warp->ready)
    warp->block->ready_warps &= ~bit(static_cast<int>(warp - warp->block->warp.data()));
  return &warp->threads[lane];
}

void switch_away() {
  Thread* own = current;
  // Copies that need not be late land between threads.
  const bool lands =
      !worker->group.tiles.empty() && !current_settings().late_copies && !(worker->random() & 3);
  Thread* next = lands ? nullptr : next_thread();
  if (next == own) return;
  current = next;
  torchext_emulator_switch(&own->stack_pointer, next ? next->stack_pointer : worker->stack_pointer);
}

void run_thread() {
  worker->running->launch.body(worker->running->launch.arguments);
  leave(current);
  switch_away();
  __builtin_trap();
}

Index index_of(uint64_t number, const Index& size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}
uint32_t volume(const Index& size) { return size.x * size.y * size.z; }

void prepare_thread(Thread& t, Block& block, int number) {
  const Launch& launch = worker->running->launch;
  t.index = index_of(number, launch.block);
  t.in_block = number;
  t.in_group = block.first + number;
  t.lane = number % 32;
  t.waiting = Waiting::no;
  t.warp = &block.warp[number / 32];
  t.block = &block;
  t.clock = worker->clock;
  t.proxy_fence = 0;
  t.seen = &worker->seen[size_t(t.in_group) * worker->group.threads];
  t.seen_beyond_warp = false;
  t.acquired.clear();
  t.to_acquire.clear();
  t.released.reset();
  t.accesses.clear();
  t.copies.clear();
  t.copy_group = 0;
  t.products.clear();
  t.product_group = 0;
  t.warpgroup_fenced = false;
  t.stack_pointer = fresh_stack_pointer(t.stack, run_thread);
  Warp& warp = *t.warp;
  if (t.lane == 0) warp.threads = &t;
  warp.block = &block;
  warp.existing |= bit(t.lane);
  warp.ready |= bit(t.lane);
}

void prepare_block(Block& block, Group& group, int number, const Index& index) {
  const Launch& launch = worker->running->launch;
  block.group = &group;
  block.index = index;
  block.threads = block.alive = static_cast<int>(volume(launch.block));
  block.first = number * block.threads;
  block.thread = &worker->threads[block.first];
  block.shared = shared_slot(worker->number, number);
  block.shared_bytes = static_cast<uint32_t>(launch.shared_bytes);
  clear_shared(block.shared, block.shared_bytes);
  block.floor = worker->clock - 1;
  block.seen.clear();
  block.acquired.clear();
  block.mbarriers.clear();
  for (Barrier& barrier : block.barriers) barrier = Barrier{};
  for (auto& waiting : block.warpgroup) waiting.clear();
  block.warps = (block.threads + 31) / 32;
  block.warp.assign(block.warps, Warp{});
  block.ready_warps = block.warps == 32 ? ~0u : bit(block.warps) - 1;
  for (int i = 0; i < block.threads; ++i) prepare_thread(block.thread[i], block, i);
}

void prepare_group(uint32_t number) {
  const Running& running = *worker->running;
  const Launch& launch = running.launch;
  Group& group = worker->group;
  const Index cluster = launch.cooperative ? launch.grid : launch.cluster;
  const Index clusters = {launch.grid.x / cluster.x, launch.grid.y / cluster.y,
                          launch.grid.z / cluster.z};
  group.number = number;
  group.blocks = static_cast<int>(volume(cluster));
  group.threads = group.blocks * static_cast<int>(volume(launch.block));
  group.aborted = false;
  group.tiles.clear();
  group.pauses = 0;
  group.block.resize(group.blocks);
  worker->state = running.seed * 0x9e3779b97f4a7c15 ^ (number + 1) * 0xd1b54a32d192ed03;
  for (int i = 0; i < 4; ++i) worker->random();
  worker->warp = nullptr;
  while (worker->threads.size() < size_t(group.threads)) {
    worker->threads.emplace_back();
    worker->threads.back().stack = new_stack();
  }
  // Clocks go on from group to group, so that what threads have seen need not be cleared.
  if (worker->seen_threads != size_t(group.threads) || worker->clock > kMostClock) {
    worker->seen.assign(size_t(group.threads) * group.threads, 0);
    worker->seen_threads = group.threads;
    worker->clock = 1;
  }
  const Index at = index_of(number, clusters);
  for (int i = 0; i < group.blocks; ++i) {
    const Index in = index_of(i, cluster);
    prepare_block(group.block[i], group, i,
                  {at.x * cluster.x + in.x, at.y * cluster.y + in.y, at.z * cluster.z + in.z});
  }
}

void run_group(uint32_t number) {
  prepare_group(number);
  Group& group = worker->group;
  while (!group.aborted) {
    if (!group.tiles.empty() && !current_settings().late_copies && !(worker->random() & 1)) {
      land_a_tile(group);
      continue;
    }
    Thread* next = next_thread();
    if (next) {
      current = next;
      torchext_emulator_switch(&worker->stack_pointer, next->stack_pointer);
      current = nullptr;
      continue;
    }
    int alive = 0;
    for (const Block& block : group.block) alive += block.alive;
    if (!alive) break;
    if (land_a_tile(group)) continue;
    report_deadlock(group);
    break;
  }
  if (!group.aborted && !group.tiles.empty()) {
    report("unwaited", group.tiles[0].at, "the block ends while a copy is on its way");
  }
  uint32_t latest = worker->clock;
  for (const Block& block : group.block) {
    for (int i = 0; i < block.threads; ++i) latest = std::max(latest, block.thread[i].clock);
  }
  worker->clock = latest + 1;
}

std::vector<std::unique_ptr<Worker>> workers;
uint64_t launches = 0;  // since the seed was set
uint64_t last_seed = 0;

std::string refusal(const Launch& launch) {
  const uint32_t threads = volume(launch.block), cluster = volume(launch.cluster);
  const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  if (threads == 0 || threads > 1024) return std::to_string(threads) + " threads a block";
  if (blocks == 0) return "no blocks";
  if (blocks >= 1 << 20) return "over 2^20 blocks: too many to emulate";
  const auto most = size_t(current_settings().shared_bytes);
  if (launch.shared_bytes > most) {
    return std::to_string(launch.shared_bytes) + " bytes of shared memory, of which the chip has " +
           std::to_string(most);
  }
  if (launch.grid.x % launch.cluster.x || launch.grid.y % launch.cluster.y ||
      launch.grid.z % launch.cluster.z || cluster > 16) {
    return "a grid that is no multiple of its clusters";
  }
  if (launch.cooperative && blocks > uint64_t(std::min(device().blocks_at_once, kMostBlocks))) {
    return std::to_string(blocks) + " blocks at once";
  }
  return "";
}

}  // namespace

Index thread_index() { return current->index; }
Index block_index() { return current->block->index; }
Index block_size() { return worker->running->launch.block; }
Index grid_size() { return worker->running->launch.grid; }

uint8_t* shared_memory() { return current->block->shared; }
uint32_t shared_address(const void* pointer) {
  check_shared(pointer, "an address", CALLER);
  return static_cast<uint32_t>(static_cast<const uint8_t*>(pointer) - current->block->shared) +
         kSharedBase;
}

void wait_as(Waiting how, void* at, uint64_t what) {
  current->waiting = how;
  current->waits_at = at;
  current->waits_for = what;
  switch_away();
}

void wake(Thread* thread) {
  thread->waiting = Waiting::no;
  Warp& warp = *thread->warp;
  warp.ready |= bit(thread->lane);
  warp.block->ready_warps |= bit(static_cast<int>(&warp - warp.block->warp.data()));
}

void give_way() {
  wake(current);
  worker->warp = nullptr;
  switch_away();
}

void maybe_give_way() {
  worker->group.pauses = 0;
  if (!(worker->random() & 1)) give_way();
}

void pause() {
  constexpr uint64_t kForever = 1 << 20;
  if (++worker->group.pauses > kForever) {
    report("deadlock", CALLER, "a loop waits for a store that nobody makes");
    abort_group();
  }
  give_way();
}

void abort_group() {
  worker->group.aborted = true;
  Thread* own = current;
  current = nullptr;
  torchext_emulator_switch(&own->stack_pointer, worker->stack_pointer);
  __builtin_unreachable();
}

void launch(const Launch& launch) {
  const Settings& settings = current_settings();
  if (settings.seed != last_seed) {
    last_seed = settings.seed;
    launches = 0;
  }
  Running running{launch, settings.seed * 1000003 + launches, 0, {0}};
  const std::string replay = "seed " + std::to_string(settings.seed) + ", launch " +
                             std::to_string(launches++) + " since it was set";
  const std::string why_not = refusal(launch);
  if (!why_not.empty()) throw std::runtime_error("emulator: launch: got " + why_not);
  running.groups = launch.cooperative ? 1 : volume(launch.grid) / volume(launch.cluster);
  bring_in();
  forget_atomics();
  forget_global_accesses();

  const uint32_t cpus = settings.workers ? settings.workers : std::thread::hardware_concurrency();
  const uint32_t wanted = std::max(1u, std::min(cpus, running.groups / 2));
  while (workers.size() < wanted) {
    workers.push_back(std::make_unique<Worker>());
    workers.back()->number = static_cast<int>(workers.size()) - 1;
    workers.back()->counters = std::make_unique<Counters>();
  }
  const auto work = [&running](Worker* own) {
    worker = own;
    own->running = &running;
    for (uint32_t group; (group = running.next++) < running.groups;) run_group(group);
    worker = nullptr;
  };
  std::vector<std::thread> threads;
  for (uint32_t i = 1; i < wanted; ++i) threads.emplace_back(work, workers[i].get());
  work(workers[0].get());
  for (auto& thread : threads) thread.join();
  if (settings.counts) {
    for (uint32_t i = 0; i < wanted; ++i) {
      collect(*workers[i]->counters, launch.kernel, i + 1 == wanted);
    }
  }
  bring_out();
  const std::string findings = take_findings(replay);
  if (!findings.empty()) throw std::runtime_error(findings);
}

}  // namespace torchext::emulator
