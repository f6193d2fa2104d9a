// CHECK and overflow-checked size arithmetic. Plain C++: shared by the op libraries and the Python
// host module, so that both speak with the same words.
#pragma once

#include <cstdint>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace torchext {

// PyTorch turns std::runtime_error into Python's RuntimeError with exactly this text.
#define CHECK(condition, ...)                                                     \
  do {                                                                            \
    if (__builtin_expect(!(condition), 0)) ::torchext::check_failed(__VA_ARGS__); \
  } while (false)

template <class... Words>
[[noreturn]] __attribute__((noinline, cold)) void check_failed(const Words&... words) {
  std::ostringstream text;
  (text << ... << words);
  throw std::runtime_error(text.str());
}

// a * b and a + b, refusing to wrap around. `op` and `argument` name the culprit.
inline int64_t mul(const char* op, const char* argument, int64_t a, int64_t b) {
  int64_t product;
  CHECK(!__builtin_mul_overflow(a, b, &product), op, ": ", argument, ": got ", a, " * ", b,
        ", expected a product within 64 bits");
  return product;
}

inline int64_t add(const char* op, const char* argument, int64_t a, int64_t b) {
  int64_t sum;
  CHECK(!__builtin_add_overflow(a, b, &sum), op, ": ", argument, ": got ", a, " + ", b,
        ", expected a sum within 64 bits");
  return sum;
}

}  // namespace torchext
