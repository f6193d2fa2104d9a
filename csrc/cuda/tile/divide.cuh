// Divider<I>: an integer known at launch that indices are divided by, by a multiplication and a
// shift (Granlund and Montgomery, 1994): 3 instructions in 32 bits, a division takes about 20.
#pragma once

#include "../../common/plain.h"

namespace torchext::tile {

template <class I>
struct Unsigned;
template <>
struct Unsigned<int32_t> {
  using type = uint32_t;
  using twice = uint64_t;
};
template <>
struct Unsigned<int64_t> {
  using type = uint64_t;
  using twice = unsigned __int128;
};

template <class I>
class Divider {
  using U = typename Unsigned<I>::type;
  using UU = typename Unsigned<I>::twice;
  static constexpr int kBits = 8 * sizeof(I);

 public:
  explicit Divider(int64_t value) : value_(static_cast<I>(value)), shift_(0) {
    const UU divisor = value > 1 ? value : 1;  // 0 (no outputs) never divides anything
    while ((UU{1} << shift_) < divisor) ++shift_;
    multiplier_ = static_cast<U>(((UU{1} << kBits) * ((UU{1} << shift_) - divisor)) / divisor + 1);
  }
  __host__ __device__ operator I() const { return value_; }

  // For a >= 0, so that the sum stays within as many bits.
  __host__ __device__ friend I operator/(I a, const Divider& b) {
    const auto high = static_cast<U>((static_cast<UU>(static_cast<U>(a)) * b.multiplier_) >> kBits);
    return static_cast<I>((high + static_cast<U>(a)) >> b.shift_);
  }

 private:
  I value_;
  U multiplier_;
  int32_t shift_;
};

}  // namespace torchext::tile
