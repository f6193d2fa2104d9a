#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace torchext::emulator {

// Callee-saved registers of the System V ABI; nothing in a kernel changes the floating modes.
asm(R"(
.text
.globl torchext_emulator_switch
.hidden torchext_emulator_switch
.type torchext_emulator_switch, @function
torchext_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size torchext_emulator_switch, . - torchext_emulator_switch
)");

namespace {
constexpr size_t kStack = 128 * 1024, kGuard = 4096;
constexpr int kSaved = 6;  // registers
}  // namespace

char* new_stack() {
  void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(memory) + kGuard;
}

void* fresh_stack_pointer(char* stack, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // entry never returns; this aligns its frame
  *--top = reinterpret_cast<void*>(entry);
  top -= kSaved;
  memset(top, 0, kSaved * sizeof(void*));
  return top;
}

}  // namespace torchext::emulator
