// cp.async: 16 bytes from global to shared memory on their way while the thread goes on.
#pragma once

#include "smem.cuh"

namespace torchext::tile {

// The address of shared memory as PTX wants it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
#if TORCHEXT_EMULATED
  return emulator::shared_address(pointer);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

// Zeros where `from` is null.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
#if TORCHEXT_EMULATED
  emulator::copy_async(to, from, 16, from ? 16 : 0);
#else
  const int bytes = from ? 16 : 0;
  const void* any = from ? from : to;  // an address, though nothing is read
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(any),
               "r"(bytes)
               : "memory");
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
#if TORCHEXT_EMULATED
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all but the last kLeft groups of this thread's have landed.
template <int kLeft>
__device__ __forceinline__ void wait_for_copies() {
#if TORCHEXT_EMULATED
  emulator::wait_for_copies(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace torchext::tile
