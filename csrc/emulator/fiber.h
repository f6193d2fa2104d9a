// Fibers: a stack each, and a switch between them of 20 ns.
#pragma once

#include <cstddef>

namespace torchext::emulator {

// Saves the present stack pointer in `save` and goes on from `to`.
extern "C" void torchext_emulator_switch(void** save, void* to);

char* new_stack();  // a guard page lies below
// The stack pointer of a fiber that will begin with `entry`.
void* fresh_stack_pointer(char* stack, void (*entry)());

}  // namespace torchext::emulator
