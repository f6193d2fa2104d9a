// The machine's memory: one range of addresses, so that a hook tells with one comparison what is
// not its business. First the windows of shared memory, a slot per block that runs; then global
// memory. Beside every byte lies one of marks, and for races a few cells (races.h).
#pragma once

#include <cstdint>
#include <string>

namespace torchext::emulator {

constexpr uintptr_t kArena = 0x100000000000, kGlobal = kArena + (uintptr_t{1} << 28);
constexpr size_t kArenaBytes = size_t{2} << 30;
constexpr size_t kSlot = 256 * 1024;  // of a block's shared memory: more than a chip's 227 KB
constexpr int kMostBlocks = 64;       // of a group
constexpr uint32_t kSharedBase =
    1024;  // 32-bit address of shared memory's first byte, as on sm_80+

enum Mark : uint8_t {
  kValid = 1,
  kInitialised = 2,
  kBeingWritten = 4,  // by a copy that nobody has waited for
  kBeingRead = 8,
  kIsMBarrier = 16,
  kReadOnly = 32,
};

inline bool in_arena(uintptr_t address) { return address - kArena < kArenaBytes; }
inline bool is_shared(uintptr_t address) { return address - kArena < kGlobal - kArena; }

extern uint8_t* const marks;
inline uint8_t* marks_of(uintptr_t address) { return marks + (address - kArena); }
void add_marks(uintptr_t address, size_t bytes, uint8_t which);
void remove_marks(uintptr_t address, size_t bytes, uint8_t which);

uint8_t* shared_slot(int worker, int block);
// All of it bad numbers, uninitialised.
void clear_shared(uint8_t* slot, uint32_t bytes);

// A buffer of global memory: uninitialised, with unreadable bytes before and behind it. Its address
// has the low bits (of 256 bytes) of `alike`.
uint8_t* allocate(size_t bytes, const void* alike, const std::string& name);
void free_all();
void forget_global_accesses();  // a launch sees all that the one before it did

// "offset 12 of input (64 bytes)": where an address is, for people.
std::string describe(uintptr_t address);

}  // namespace torchext::emulator
