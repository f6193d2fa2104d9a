// The functions that g++ -fsanitize=thread calls at each access of kernel code; its own library is
// not linked. Vectors go through load() and store(): g++ would take a struct of them apart.
#include <cstdint>
#include <cstring>

#include "machine.h"
#include "memory.h"
#include "report.h"

namespace torchext::emulator {
namespace {

constexpr uintptr_t kNoMemory = 1 << 16;  // what begins at a null pointer

inline void note(const volatile void* pointer, uint32_t bytes, unsigned flags, void* at,
                 uint32_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!current) return;
  if (in_arena(address)) return check_access(current, address, bytes, flags, at, alignment);
  if (address < kNoMemory) {
    report("bounds-global", at, "memory that does not exist: %p", const_cast<void*>(pointer));
    abort_group();
  }
}

// A copy or fill of a struct: the widest accesses that its address allows.
void note_range(void* pointer, long bytes, unsigned flags, void* at) {
  auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!in_arena(address) || !current) return;
  while (bytes > 0) {
    uint32_t step = 16;
    while (step > bytes || address % step) step /= 2;
    check_access(current, address, step, flags, at, 1);
    address += step;
    bytes -= step;
  }
}

template <class Operation>
auto atomic(const volatile void* pointer, uint32_t bytes, unsigned flags, void* at,
            const Operation& operation) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!in_arena(address) || !current) return operation();
  check_access(current, address, bytes, flags | kAtomic, at, bytes);
  if (!(worker->random() & 3)) give_way();
  if (flags & kWrites) release_by_atomic(current, address);
  const auto result = operation();
  acquire_by_atomic(current, address);
  return result;
}

void check_ours(const void* pointer, void* at) {
  if (in_arena(reinterpret_cast<uintptr_t>(pointer))) return;
  report("bounds-global", at, "memory of the host, or of nobody: %p", pointer);
  abort_group();
}

}  // namespace

APART void load(void* to, const void* from, unsigned bytes) {
  check_ours(from, CALLER);
  note(from, bytes, kReads, CALLER, bytes);
  memcpy(to, from, bytes);
}
APART void store(void* to, const void* from, unsigned bytes) {
  check_ours(to, CALLER);
  note(to, bytes, kWrites, CALLER, bytes);
  memcpy(to, from, bytes);
}

}  // namespace torchext::emulator

using namespace torchext::emulator;

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define PLAIN_ACCESS(bytes)                                                         \
  void __tsan_read##bytes(void* p) { note(p, bytes, kReads, CALLER, bytes); }       \
  void __tsan_write##bytes(void* p) { note(p, bytes, kWrites, CALLER, bytes); }     \
  void __tsan_unaligned_read##bytes(void* p) { note(p, bytes, kReads, CALLER, 1); } \
  void __tsan_unaligned_write##bytes(void* p) { note(p, bytes, kWrites, CALLER, 1); }
PLAIN_ACCESS(1)
PLAIN_ACCESS(2)
PLAIN_ACCESS(4)
PLAIN_ACCESS(8)
PLAIN_ACCESS(16)

void __tsan_read_range(void* p, long bytes) { note_range(p, bytes, kReads, CALLER); }
void __tsan_write_range(void* p, long bytes) { note_range(p, bytes, kWrites, CALLER); }

void __tsan_atomic_thread_fence(int) {
  if (current) fence();
}
void __tsan_atomic_signal_fence(int) {}

#define ORDER __ATOMIC_SEQ_CST
#define ATOMIC(T, bits)                                                                        \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                     \
    return atomic(p, bits / 8, kReads, CALLER, [&] { return __atomic_load_n(p, ORDER); });     \
  }                                                                                            \
  void __tsan_atomic##bits##_store(volatile T* p, T value, int) {                              \
    atomic(p, bits / 8, kWrites | kUninitialised, CALLER,                                      \
           [&] { return __atomic_store_n(p, value, ORDER), 0; });                              \
  }                                                                                            \
  T __tsan_atomic##bits##_exchange(volatile T* p, T value, int) {                              \
    return atomic(p, bits / 8, kWrites, CALLER,                                                \
                  [&] { return __atomic_exchange_n(p, value, ORDER); });                       \
  }                                                                                            \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T value, int) {                             \
    return atomic(p, bits / 8, kWrites, CALLER,                                                \
                  [&] { return __atomic_fetch_add(p, value, ORDER); });                        \
  }                                                                                            \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T value, int,  \
                                                    int) {                                     \
    return atomic(p, bits / 8, kWrites, CALLER, [&] {                                          \
      return __atomic_compare_exchange_n(p, expected, value, false, ORDER, ORDER);             \
    });                                                                                        \
  }                                                                                            \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T expected, T value, int, int) { \
    return atomic(p, bits / 8, kWrites, CALLER, [&] {                                          \
      __atomic_compare_exchange_n(p, &expected, value, false, ORDER, ORDER);                   \
      return expected;                                                                         \
    });                                                                                        \
  }
ATOMIC(uint32_t, 32)
ATOMIC(uint64_t, 64)

}  // extern "C"
