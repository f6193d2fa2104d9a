// Memory of the queue's, until its work is done.
#pragma once

#include "../../common/plain.h"

namespace torchext::tile {

template <class T>
T* scratch(const Queue& queue, int64_t count) {
  return static_cast<T*>(queue.allocate(queue.context, count * static_cast<int64_t>(sizeof(T))));
}

}  // namespace torchext::tile
