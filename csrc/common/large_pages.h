// Large pages for large results: memory that is fresh from the system comes in pages of 4 KB, which
// take longer to get than most kernels to fill. The system may still say no.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace torchext {

constexpr int64_t kWorthLargePages = 4 << 20;  // bytes: two large pages, wherever they begin

inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace torchext
