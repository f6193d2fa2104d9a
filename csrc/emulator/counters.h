// What launches cost, as far as it can be counted: for each line of a kernel the requests of its
// warps, sectors (32 bytes) and wavefronts (cycles of shared memory's banks) beside the fewest that
// the same bytes need; for each launch the sectors it read and wrote, each once, as if L2 kept all.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "machine.h"

namespace torchext::emulator {

struct Cost {
  uint64_t requests = 0, lanes = 0, sectors = 0, fewest_sectors = 0, wavefronts = 0,
           fewest_wavefronts = 0;
  uint32_t bytes = 0;  // of a lane
  bool writes = false, shared = false, matrix_row = false;
  void add(const Cost& other);
};

struct Counters {  // of a worker, in a launch
  std::unordered_map<void*, Cost> lines;
  std::unordered_set<uintptr_t> read, written;  // sectors
  uint64_t products = 0;                        // multiplications and additions of tensor cores

  void flush(Warp& warp);  // counts what its lanes have collected
  void clear();

 private:
  void count(const Access** lanes, int count);
};

void count_products(uint64_t operations);
void flush(Warp& warp);
// When a launch has ended: adds up its workers'.
void collect(Counters& counters, const void* kernel, bool last);

}  // namespace torchext::emulator
