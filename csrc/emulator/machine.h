// The state of the machine: threads in warps in blocks; the group of blocks that must run together
// (one, a cluster, or a whole cooperative grid); and the workers, OS threads that play one group
// after another. Everything of a group belongs to its worker: no locks.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator.h"

#define CALLER __builtin_return_address(0)
#define APART __attribute__((noinline))  // so that CALLER is the kernel

namespace torchext::emulator {

struct Thread;
struct Warp;
struct Block;
struct Group;
struct Worker;

// A moment of one thread, and of all that it had seen by then: what a release hands to an acquire.
struct Moment {
  uint32_t group;
  std::vector<uint32_t> seen;
};
using Moments = std::vector<std::shared_ptr<const Moment>>;

enum class Waiting : uint8_t { no, block, warp, mbarrier, warpgroup, done };

struct Access {  // one lane's, kept for the counters
  void* at;
  uintptr_t address;
  uint16_t bytes;
  bool writes, shared, matrix_row;
};

struct PendingCopy {
  uintptr_t to, from;
  int bytes, bytes_read, group;
  void* at;
};

struct PendingProduct {  // of a warpgroup
  float* d;
  std::vector<float> values;  // d's own, while it shows NaN; empty if an earlier one has them
  int columns, group;
  uint64_t a, b;
  bool add;
  Number type;
  void* at;
};

struct MBarrier {
  uint32_t offset, count, pending, phase;
  int64_t bytes;
  std::vector<uint32_t> seen;
  std::vector<Thread*> waiting;
  uint32_t made_by, made_at;
};

struct Thread {
  void* stack_pointer;
  char* stack;
  Index index;
  uint32_t in_block, in_group;
  uint8_t lane;
  Waiting waiting;
  Warp* warp;
  Block* block;

  // Happens-before: this thread's clock, and the latest clock of each thread that it has seen.
  uint32_t clock, proxy_fence;
  uint32_t* seen;
  bool seen_beyond_warp;
  Moments acquired, to_acquire;
  std::shared_ptr<const Moment> released;

  // What it waits for, for the words of a deadlock
  void* waits_at;
  uint64_t waits_for;
  MBarrier* waits_mbarrier;
  uint32_t waits_parity;

  std::vector<Access> accesses;
  std::vector<PendingCopy> copies;
  int copy_group;
  std::vector<PendingProduct> products;
  int product_group;
  bool warpgroup_fenced;
};

struct Post {  // what a lane brought to its warp's meeting
  uint32_t mask;
  int kind;
  void* payload;
  void* at;
};

struct Warp {
  Thread* threads;
  Block* block;
  uint32_t existing, ready, done, posted;
  int first;  // lane that goes first
  Post posts[32];
};

struct Barrier {
  int arrived, needed;
  bool whole;
  std::vector<uint32_t> seen;
  std::vector<Thread*> waiting;
  struct Arrival {
    void* at;
    uint32_t thread, line;
  };
  std::vector<Arrival> arrivals;
};

struct Block {
  Group* group;
  Index index;
  uint8_t* shared;
  uint32_t shared_bytes;
  uint32_t floor;              // every thread has seen every other of the block up to this clock
  std::vector<uint32_t> seen;  // and those of other blocks up to these
  Moments acquired;
  int first, threads, warps, alive;  // `first`: of its threads, in the group
  Thread* thread;
  std::vector<Warp> warp;
  uint32_t ready_warps;
  Barrier barriers[16];
  std::unordered_map<uint32_t, MBarrier> mbarriers;
  std::vector<Thread*> warpgroup[8];
};

struct PendingTile {
  MBarrier* barrier;
  Block* block;
  TensorMap map;
  uintptr_t to;
  int column, row;
  Thread* issuer;
  uint32_t clock;
  std::vector<uint32_t> seen;
  void* at;
};

struct Group {
  uint32_t number;  // in the launch
  int blocks, threads;
  bool aborted;
  std::vector<Block> block;
  std::vector<PendingTile> tiles;
  uint64_t pauses;  // without anything else happening
};

struct Counters;

struct Running {  // a launch
  Launch launch;
  uint64_t seed;
  uint32_t groups;
  std::atomic<uint32_t> next;
};

struct Worker {
  int number;
  Running* running;
  Group group;
  void* stack_pointer;
  uint64_t state;  // of the random numbers
  uint32_t clock = 1;
  size_t seen_threads = 0;
  std::vector<Thread> threads;
  std::vector<uint32_t> seen;
  Warp* warp;  // that runs until none of its lanes can
  std::unique_ptr<Counters> counters;

  uint64_t random() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
};

extern thread_local Thread* current __attribute__((tls_model("initial-exec")));
extern thread_local Worker* worker __attribute__((tls_model("initial-exec")));

// ---- schedule.cpp
void wait_as(Waiting how, void* at, uint64_t what);
void wake(Thread* thread);
void give_way();  // let others run first
void maybe_give_way();
[[noreturn]] void abort_group();

// ---- meeting.cpp
using Collective = void (*)(Warp&, uint32_t mask);
void meet_lanes(int kind, uint32_t mask, void* payload, void* at, Collective act);
void leave(Thread* thread);  // it has returned from the kernel
void report_deadlock(Group& group);
enum Meeting { kWarp, kShuffle, kBallot, kLoadMatrices, kMultiply };

// ---- order.cpp: happens-before
void publish(Thread* thread, std::vector<uint32_t>& into);
void acquire(Thread* thread, const std::vector<uint32_t>& from);
void order_lanes(Warp& warp, uint32_t mask);
void order_block(Block& block);
void release_by_atomic(Thread* thread, uintptr_t address);
void acquire_by_atomic(Thread* thread, uintptr_t address);
void forget_atomics();

// ---- access.cpp
enum Flags : unsigned {
  kReads = 0,
  kWrites = 1,
  kAtomic = 2,
  kMatrixRow = 8,
  kOfMBarrier = 16,
  kUninitialised = 32,  // may be
  kInFlight = 64,       // may be
  kUncounted = 128,
};
struct When {  // somebody's past, where it is not the thread's present
  uint32_t clock;
  const uint32_t* seen;
};
void check_access(Thread* thread, uintptr_t address, uint32_t bytes, unsigned flags, void* at,
                  uint32_t alignment, const When* when = nullptr);
void check_shared(const void* pointer, const char* what, void* at);

// ---- hopper.cpp
bool land_a_tile(Group& group);

}  // namespace torchext::emulator
