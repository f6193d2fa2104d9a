// Blocks of a cooperative launch that wait for each other.
#pragma once

namespace torchext::tile {

// A counter that other blocks change.
__device__ __forceinline__ unsigned read_counter(const unsigned* counter) {
#if TORCHEXT_EMULATED
  return __atomic_load_n(counter, __ATOMIC_RELAXED);
#else
  unsigned value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
#endif
}

// Until `arrivals` blocks have come here, of all times together; what their threads stored before,
// all may load after, from L2 (load_fresh).
__device__ __forceinline__ void meet_blocks(unsigned* counter, unsigned arrivals) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(counter, 1u);
    while (read_counter(counter) < arrivals) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

// What another block may have stored since this one last looked.
template <class T>
__device__ __forceinline__ T load_fresh(const T* from) {
#if TORCHEXT_EMULATED
  return *from;
#else
  return __ldcg(from);
#endif
}

}  // namespace torchext::tile
