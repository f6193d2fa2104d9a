// The recurrent cells (../common/cells.h) of single numbers.
#pragma once

#include "../common/cells.h"
#include "../op/recurrent.h"
#include "pointwise.cuh"
#include "tile/math.cuh"

namespace torchext {

struct NumberMath {
  template <class F>
  __device__ __forceinline__ static F sigmoid(F x) {
    return tile::sigmoid(x);
  }
  template <class F>
  __device__ __forceinline__ static F tanh(F x) {
    return tile::tanh_of(x);
  }
};
using Lstm = LstmCell<NumberMath>;
using Gru = GruCell<NumberMath>;
template <bool kRelu>
using Rnn = RnnCell<NumberMath, kRelu>;

// function(Cell{}, W{}) for a layer's cell and the type of its weights.
template <class Function>
void for_cell(const Recurrent& p, const Function& function) {
  const auto typed = [&](auto cell) {
    for_dtype(p.stored, [&](auto zero) { function(cell, zero); });
  };
  switch (p.cell) {
    case Cell::lstm:
      return typed(Lstm{});
    case Cell::gru:
      return typed(Gru{});
    case Cell::rnn_tanh:
      return typed(Rnn<false>{});
    case Cell::rnn_relu:
      return typed(Rnn<true>{});
  }
}

}  // namespace torchext
