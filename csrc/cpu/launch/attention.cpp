// Attention and its gradients on the CPU: the launches, and what happens where memory runs out.
#include "../attention.h"

#include <new>

namespace torchext {

void launch(const cpu::AttentionForward& p, const Queue&);
void launch(const cpu::AttentionGradients& p, const Queue&);
void launch(const cpu::AttentionMaskGradient& p, const Queue&);

namespace {

template <class Piece, class P>
void launch_as(const P& p) {
  bool out_of_memory = false;  // kernels don't throw
  Piece piece;
  static_cast<P&>(piece) = p;
  piece.out_of_memory = &out_of_memory;
  launch(piece, Queue{});
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace

void launch(const Attention& p, const Queue&) { launch_as<cpu::AttentionForward>(p); }

void launch(const AttentionBackward& p, const Queue&) {
  launch_as<cpu::AttentionGradients>(p);
  if (p.grad_mask != nullptr) launch_as<cpu::AttentionMaskGradient>(p);
}

}  // namespace torchext
