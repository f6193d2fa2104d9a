// The recurrent cells (../common/cells.h) of vectors.
#pragma once

#include "../common/cells.h"
#include "math.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

struct VectorMath {
  template <class V>
  INLINE V sigmoid(V x) {
    return vsigmoid(x);
  }
  template <class V>
  INLINE V tanh(V x) {
    return vtanh(x);
  }
};
using Lstm = LstmCell<VectorMath>;
using Gru = GruCell<VectorMath>;
template <bool kRelu>
using Rnn = RnnCell<VectorMath, kRelu>;

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
