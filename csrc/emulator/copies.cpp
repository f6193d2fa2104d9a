// cp.async: checked when issued, performed when waited for, and marked as on its way in between.
#include <cstring>

#include "machine.h"
#include "memory.h"

namespace torchext::emulator {
namespace {

void land(Thread* t, const PendingCopy& copy) {
  check_access(t, copy.to, copy.bytes, kWrites | kUncounted | kInFlight, copy.at, 1);
  if (copy.bytes_read) {  // the source is read late, too
    check_access(t, copy.from, copy.bytes_read, kReads | kUncounted, copy.at, 1);
  }
  auto* to = reinterpret_cast<uint8_t*>(copy.to);
  memcpy(to, reinterpret_cast<const void*>(copy.from), copy.bytes_read);
  memset(to + copy.bytes_read, 0, copy.bytes - copy.bytes_read);
  remove_marks(copy.to, copy.bytes, kBeingWritten);
}

}  // namespace

APART void copy_async(void* shared, const void* global, int bytes, int bytes_read) {
  Thread* t = current;
  const auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  check_shared(shared, "the destination of cp.async", CALLER);
  check_access(t, to, bytes, kWrites, CALLER, bytes);
  if (bytes_read) check_access(t, from, bytes_read, kReads, CALLER, bytes);
  add_marks(to, bytes, kBeingWritten);
  t->copies.push_back({to, from, bytes, bytes_read, t->copy_group, CALLER});
}

void commit_copies() { ++current->copy_group; }

void wait_for_copies(int groups_left) {
  Thread* t = current;
  size_t kept = 0;
  for (const PendingCopy& copy : t->copies) {
    if (copy.group < t->copy_group - groups_left) {
      land(t, copy);
    } else {
      t->copies[kept++] = copy;
    }
  }
  t->copies.resize(kept);
}

}  // namespace torchext::emulator
