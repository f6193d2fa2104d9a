// What kernel sources that g++ compiled call where nvcc would have put an instruction. One fiber
// plays each CUDA thread; whatever threads do together is a meeting of fibers. Sources reach this
// through cuda.h (CUDA's own words) and cuda/tile/ (what takes PTX).
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchext::emulator {

struct Index {
  unsigned x, y, z;
};

// Who runs. By value and const: the compiler calls them once, and no load of them is reported.
Index thread_index() __attribute__((const));
Index block_index() __attribute__((const));
Index block_size() __attribute__((const));
Index grid_size() __attribute__((const));

// ---- Launches
struct Launch {
  Index grid, block, cluster;
  size_t shared_bytes;
  bool cooperative;           // all blocks at once
  const void* kernel;         // its address, for its name
  void (*body)(const void*);  // calls it, once per thread, with `arguments`
  const void* arguments;
};
void launch(const Launch& launch);  // throws std::runtime_error with what was found

// The device that launchers ask for its limits.
struct Device {
  int multiprocessors, blocks_at_once, shared_bytes;
};
Device device();

// ---- Memory. Accesses of plain C++ report themselves (hooks.cpp); vectors go through these.
void load(void* to, const void* from, unsigned bytes);
void store(void* to, const void* from, unsigned bytes);
uint8_t* shared_memory();
uint32_t shared_address(const void* pointer);  // as the 32 bits that PTX would see

// ---- Meetings
void meet_block(unsigned line);                           // __syncthreads
void meet_some(int barrier, int threads, unsigned line);  // bar.sync
void arrive_some(int barrier, int threads);               // bar.arrive
void meet_warp(uint32_t mask);
enum class Shuffle { index, up, down, exclusive_or };
uint32_t shuffle(Shuffle kind, uint32_t mask, uint32_t value, int argument, int width);
uint32_t ballot(uint32_t mask, bool vote);
uint32_t active_lanes();
void fence();  // __threadfence
void pause();  // in loops that wait for another thread's store

// ---- cp.async, ldmatrix, mma.sync
void copy_async(void* shared, const void* global, int bytes, int bytes_read);
void commit_copies();
void wait_for_copies(int groups_left);
void load_matrices(uint32_t* registers, int count, bool transposed, const void* row);
enum class Number { f16, bf16, tf32 };
// m16n8k16 (tf32: m16n8k8): d = a * b + c.
void multiply(Number type, float* d, const uint32_t* a, const uint32_t* b, const float* c);

// ---- Hopper: mbarrier, TMA, wgmma
struct TensorMap {  // of two dimensions, the inner one contiguous
  void* base;
  uint64_t rows, columns, row_bytes;
  uint32_t box_rows, box_columns, element_bytes;
  int swizzle;  // 0 or 128
};
void init_barrier(uint64_t* barrier, uint32_t arrivals);
void arrive(uint64_t* barrier);
void expect_bytes(uint64_t* barrier, uint32_t bytes);  // and arrive
void wait(uint64_t* barrier, uint32_t parity);
void fence_async_proxy();
void copy_tile(void* shared, const TensorMap* map, uint64_t* barrier, int column, int row);
void fence_warpgroup();
void multiply_warpgroup(Number type, float* d, int columns, uint64_t a, uint64_t b, bool add);
void commit_warpgroup();
void wait_for_warpgroup(int groups_left);

}  // namespace torchext::emulator
