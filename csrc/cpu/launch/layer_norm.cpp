// layer_norm's gradient on the CPU: rows in blocks, then the sums of the blocks.
#include "../layer_norm.h"

#include "../outer.h"
#include "scratch.h"

namespace torchext {

void launch(const cpu::LayerNormRows& p, const Queue& queue);
void launch(const cpu::ColumnSums& p, const Queue& queue);

void launch(const LayerNormBackward& p, const Queue& queue) {
  const bool of_weights = p.grad_weight != nullptr;
  cpu::LayerNormRows rows{p, cpu::row_blocks(p), nullptr, nullptr};
  const int64_t kept = of_weights ? rows.blocks : 0;
  const cpu::Scratch weight_sums(p.dtype, kept, p.size), bias_sums(p.dtype, kept, p.size);
  if (of_weights) rows.weight_sums = weight_sums.get(), rows.bias_sums = bias_sums.get();
  if (p.rows > 0) launch(rows, queue);
  if (!of_weights) return;
  const auto add_up = [&](const cpu::Scratch& sums, void* to) {
    launch(cpu::ColumnSums{compute_dtype(p.dtype), 1, 1, rows.blocks, p.size, sums.get(), 0, 0,
                           p.size, to},
           queue);
  };
  add_up(weight_sums, p.grad_weight);
  add_up(bias_sums, p.grad_bias);
}

}  // namespace torchext
