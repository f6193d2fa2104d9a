// Races: two accesses of the same byte, one of them a write, of which neither happened before the
// other (order.cpp). For each piece of memory a cell remembers the last write and two reads since.
// Pieces are of 16 bytes; of 4 where narrower accesses came, of 1 where still narrower ones did.
#pragma once

#include <cstddef>
#include <cstdint>

#include "machine.h"

namespace torchext::emulator {

void forget_accesses(uintptr_t address, size_t bytes);

// Reports a race of this access with an earlier one; remembers it.
void check_races(const Thread* thread, uintptr_t address, uint32_t bytes, unsigned flags, void* at,
                 const When& now);

// The thread whose plain write to [address, address + bytes) its own proxy fence did not follow; -1
// if there is none. Copies mark what they wrote as fenced.
int unfenced_writer(const Group& group, uintptr_t address, uint32_t bytes);
void note_fenced(uintptr_t address, uint32_t bytes);

}  // namespace torchext::emulator
