// conv2d by Winograd's method: images laid out as for other products, where they are not already.
#include <new>

#include "../../op/conv2d.h"
#include "../winograd.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Winograd& p, const Queue& queue);

void launch(const Conv2dWinograd& p, const Queue& queue) {
  const Laid x = lay_out(plain_image(p.dtype, p.N, p.C, p.H, p.W, p.x, p.x_stride), true);
  Laid residual{};
  cpu::Winograd winograd{};
  winograd.dtype = p.dtype;
  winograd.images = p.N, winograd.H = p.H, winograd.W = p.W, winograd.OH = p.OH;
  winograd.OW = p.OW, winograd.top = p.h.padding, winograd.left = p.w.padding;
  winograd.x = x.data, winograd.x_stride = {x.n, 1, x.row, x.column};
  if (p.residual != nullptr) {
    residual =
        lay_out(plain_image(p.dtype, p.N, p.O, p.OH, p.OW, p.residual, p.residual_stride), true);
    winograd.residual = residual.data;
    winograd.residual_stride = {residual.n, 1, residual.row, residual.column};
  }
  winograd.y = p.y, winograd.y_stride = p.y_stride;
  winograd.bias = p.bias, winograd.activation = p.activation;
  bool out_of_memory = false;
  winograd.workspace = cpu::thread_memory;
  winograd.out_of_memory = &out_of_memory;

  const int64_t no_offset = 0;
  cpu::Product& product = winograd.product;
  product.dtype = compute_dtype(p.dtype);
  product.groups = kWinogradPoints, product.images = 1, product.rows = 1;
  product.segments = 1, product.K = p.C, product.N = p.O;
  product.a_segment = &no_offset;
  product.b = p.panels;
  product.b_row = panel_columns(p.dtype);
  product.b_group = p.C * product.b_row;
  product.b_panel = kWinogradPoints * product.b_group;
  launch(winograd, queue);
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace torchext
