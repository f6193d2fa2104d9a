// The block's dynamic shared memory, as an array of T. No kernel has any other.
#pragma once

namespace torchext::tile {

template <class T>
__device__ __forceinline__ T* shared_array() {
  static_assert(alignof(T) <= 16, "the declaration below aligns to 16 bytes");
#if TORCHEXT_EMULATED
  return reinterpret_cast<T*>(emulator::shared_memory());
#else
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
#endif
}

}  // namespace torchext::tile
