// The bias of window attention, looked up in its table and summed back into it.
#pragma once

#include "attention.h"

namespace torchext::cpu {

// to[head][pair] = table[index[pair]][head], in the type computed in.
struct WindowBias {
  DType dtype;
  int64_t heads, pairs;
  const void* table;
  int64_t row, head;  // strides
  const int64_t* index;
  void* to;
};

// grad_table[entry][head] = sum over the pairs of that entry of grad[head][pair], in order.
struct WindowBiasGradient {
  DType dtype;
  int64_t heads, pairs, entries;
  const void* grad;
  const int64_t* index;
  void* sums;  // [head][entry], in the type computed in
  void* grad_table;
};

PLAIN Split split_of(const WindowBias& p) { return split(p.heads, p.pairs); }
PLAIN Split split_of(const WindowBiasGradient& p) { return split(p.heads, p.pairs); }

}  // namespace torchext::cpu
