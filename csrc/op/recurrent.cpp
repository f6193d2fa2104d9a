// lstm, gru, rnn and their cells: checks, allocation and registration, compiled into each backend's
// library. Kernels see dense tensors of the type computed in: 16-bit ones are widened first, so
// that states stay float from step to step. GPUs take inputs and weights as they are: they have
// units for products of 16-bit numbers.
#include "recurrent.h"

#include "../common/backend.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

// A layer's arguments; a cell's have no batch_sizes.
struct Arguments {
  Cell cell;
  const Tensor &x, &hx;
  const Tensor* cx;  // lstm
  const Tensor &w_ih, &w_hh;
  const Optional &b_ih, &b_hh;
  const IntList* batch_sizes;
  bool reverse;
};

const Optional kNone;

ScalarType computed_in(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

#if TORCHEXT_LIBRARY_CPU
constexpr bool kWidensAll = true;
#else
constexpr bool kWidensAll = false;
#endif

// Checks tensors against the input and against their shapes, and keeps what it had to copy.
class Dense {
 public:
  Dense(const char* op, const Tensor& x) : op_(op), type_(x.scalar_type()), wide_(computed_in(x)) {}

  const void* operator()(const char* argument, const Tensor& tensor, const Dims& shape) {
    return get(argument, tensor, shape, type_, true);
  }
  const void* factor(const char* argument, const Tensor& tensor, const Dims& shape) {
    return get(argument, tensor, shape, type_, kWidensAll);
  }
  const void* operator()(const char* argument, const Optional& tensor, const Dims& shape) {
    return tensor.has_value() ? get(argument, *tensor, shape, type_, true) : nullptr;
  }
  const void* wide(const char* argument, const Tensor& tensor, const Dims& shape) {
    return get(argument, tensor, shape, wide_, true);
  }

 private:
  const void* get(const char* argument, const Tensor& tensor, const Dims& shape, ScalarType type,
                  bool widens) {
    check_tensor(op_, argument, tensor);
    CHECK(tensor.scalar_type() == type, op_, ": ", argument, ": got dtype ",
          torch::headeronly::toString(tensor.scalar_type()), ", expected ",
          torch::headeronly::toString(type));
    const Dims got = sizes_of(tensor);
    CHECK(got == shape, op_, ": ", argument, ": got shape ", got, ", expected ", shape);
    Tensor dense = torch::stable::contiguous(tensor);
    if (widens && type != wide_) dense = torch::stable::to(dense, wide_);
    kept_.push_back(dense);
    return memory_of(dense);
  }

  const char* op_;
  ScalarType type_, wide_;
  std::vector<Tensor> kept_;
};

Dims dims(std::initializer_list<int64_t> sizes) {
  return Dims(sizes.begin(), static_cast<int64_t>(sizes.size()));
}

void check_rank(const char* op, const char* argument, const Tensor& tensor, int rank,
                const char* what) {
  check_tensor(op, argument, tensor);
  CHECK(tensor.dim() == rank, op, ": ", argument, ": got ", tensor.dim(), " dimensions, expected ",
        rank, " ", what);
}

// The steps: of a padded input [T, B, I], a packed one [N, I], or of a cell's [B, I].
void set_steps(const char* op, Recurrent& p, const Arguments& a, IntList& batch_sizes) {
  const bool packed = a.batch_sizes && !a.batch_sizes->empty();
  const bool cell = a.batch_sizes == nullptr;
  check_rank(op, "input", a.x, cell || packed ? 2 : 3,
             cell     ? "(B, I)"
             : packed ? "(N, I), being packed"
                      : "(T, B, I)");
  const Dims x = sizes_of(a.x);
  p.I = x[-1];
  if (packed) {
    batch_sizes = *a.batch_sizes;
    int64_t rows = 0;
    for (size_t t = 0; t < batch_sizes.size(); ++t) {
      CHECK(batch_sizes[t] >= 1 && (t == 0 || batch_sizes[t] <= batch_sizes[t - 1]), op,
            ": batch_sizes: got ", batch_sizes[t], " at step ", t,
            ", expected positive sizes that never grow");
      rows = add(op, "batch_sizes", rows, batch_sizes[t]);
    }
    CHECK(rows == x[0], op, ": batch_sizes: got a sum of ", rows, ", expected the input's ", x[0],
          " rows");
  } else {
    CHECK(x[0] > 0 || cell, op, ": input: got a sequence of length 0, expected at least 1");
    batch_sizes.assign(cell ? 1 : x[0], x[-2]);
  }
  p.T = static_cast<int64_t>(batch_sizes.size());
  p.B = batch_sizes[0];
  p.N = packed ? x[0] : mul(op, "input", p.T, p.B);
  p.batch_sizes = batch_sizes.data();
  p.reverse = a.reverse;
}

// The layer, everything checked. `dense` keeps the tensors alive, `batch_sizes` the steps.
Recurrent make_recurrent(const char* op, const Arguments& a, Dense& dense, IntList& batch_sizes) {
  Recurrent p{};
  p.cell = a.cell;
  const DType given = floating_dtype(op, "input", a.x);
  p.dtype = compute_dtype(given);
  p.stored = kWidensAll ? p.dtype : given;
  set_steps(op, p, a, batch_sizes);
  check_rank(op, "w_ih", a.w_ih, 2, "(gates * H, I)");
  check_rank(op, "w_hh", a.w_hh, 2, "(gates * H, H)");
  const int64_t gates = gates_of(a.cell), rows = sizes_of(a.w_ih)[0];
  p.H = rows / gates;
  CHECK(p.H > 0 && p.H * gates == rows, op, ": w_ih: got ", rows, " rows, expected ", gates,
        " times the hidden size");
  const bool projected = a.cell == Cell::lstm && a.batch_sizes == nullptr;
  p.P = projected ? sizes_of(a.w_hh)[1] : p.H;
  p.x = dense.factor("input", a.x, sizes_of(a.x));
  p.w_ih = dense.factor("w_ih", a.w_ih, dims({rows, p.I}));
  p.w_hh = dense.factor("w_hh", a.w_hh, dims({rows, p.P}));
  p.b_ih = dense("b_ih", a.b_ih, dims({rows}));
  p.b_hh = dense("b_hh", a.b_hh, dims({rows}));
  p.h0 = dense("hx", a.hx, dims({p.B, p.P}));
  if (a.cx) p.c0 = dense("cx", *a.cx, dims({p.B, p.H}));
  return p;
}

// Outputs are computed in the wide type and rounded at the end.
Tensor empty(const char* op, const Tensor& like, const Dims& sizes) {
  return empty_dense(op, like, sizes, false, computed_in(like));
}
Tensor rounded(const Tensor& wide, const Tensor& like) {
  if (wide.scalar_type() == like.scalar_type()) return wide;
  return torch::stable::to(wide, like.scalar_type());
}

Dims with_last(Dims sizes, int64_t last) {
  sizes[-1] = last;
  return sizes;
}

struct Results {
  Tensor y;
  Optional h_n, c_n, saved;  // no h_n of a cell: it is y
};

Results forward(const char* op, const Arguments& a, bool training) {
  check_tensor(op, "input", a.x);
  Dense dense(op, a.x);
  IntList batch_sizes;
  RecurrentForward p{};
  static_cast<Recurrent&>(p) = make_recurrent(op, a, dense, batch_sizes);
  Tensor y = empty(op, a.x, with_last(sizes_of(a.x), p.H));
  Optional h_n, c_n, saved;
  if (a.batch_sizes) h_n = empty(op, a.x, dims({p.B, p.H}));
  if (a.cx) c_n = empty(op, a.x, dims({p.B, p.H}));
  if (training) {
    saved = empty(op, a.x, dims({p.N, mul(op, "hidden size", saved_of(p.cell), p.H)}));
    p.saved = memory_of(*saved);
  }
  p.y = memory_of(y);
  p.h_n = memory_of(h_n);
  p.c_n = memory_of(c_n);
  if (p.B > 0) launch(p, Context(a.x).queue);
  if (h_n) h_n = rounded(*h_n, a.x);
  if (c_n) c_n = rounded(*c_n, a.x);
  return {rounded(y, a.x), h_n, c_n, saved};
}

struct Gradients {
  Tensor x, h0;
  Optional c0;
  Tensor w_ih, w_hh, b_ih, b_hh;
};

Gradients backward(const char* op, const Arguments& a, const Tensor& grad_y,
                   const Optional& grad_h_n, const Optional& grad_c_n, const Tensor& saved) {
  check_tensor(op, "input", a.x);
  Dense dense(op, a.x);
  IntList batch_sizes;
  RecurrentBackward p{};
  static_cast<Recurrent&>(p) = make_recurrent(op, a, dense, batch_sizes);
  const Dims y_sizes = with_last(sizes_of(a.x), p.H), state = dims({p.B, p.H});
  const int64_t rows = sizes_of(a.w_ih)[0];
  p.grad_y = dense(a.batch_sizes ? "grad_y" : "grad_hy", grad_y, y_sizes);
  p.grad_h_n = dense("grad_hy", grad_h_n, state);
  p.grad_c_n = dense("grad_cy", grad_c_n, state);
  p.saved = dense.wide("saved", saved, dims({p.N, saved_of(p.cell) * p.H}));
  Gradients g{empty(op, a.x, sizes_of(a.x)),
              empty(op, a.x, dims({p.B, p.P})),
              a.cx ? Optional(empty(op, a.x, state)) : kNone,
              empty(op, a.x, sizes_of(a.w_ih)),
              empty(op, a.x, sizes_of(a.w_hh)),
              empty(op, a.x, dims({rows})),
              empty(op, a.x, dims({rows}))};
  p.grad_x = memory_of(g.x);
  p.grad_h0 = memory_of(g.h0);
  p.grad_c0 = memory_of(g.c0);
  p.grad_w_ih = memory_of(g.w_ih);
  p.grad_w_hh = memory_of(g.w_hh);
  p.grad_b_ih = memory_of(g.b_ih);
  p.grad_b_hh = memory_of(g.b_hh);
  launch(p, Context(a.x).queue);  // of an empty batch: zeros
  if (a.cx) g.c0 = rounded(*g.c0, a.x);
  return {rounded(g.x, a.x),    rounded(g.h0, a.x),   g.c0,
          rounded(g.w_ih, a.x), rounded(g.w_hh, a.x), rounded(g.b_ih, a.x),
          rounded(g.b_hh, a.x)};
}

using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The ops of a kind of cell. Their parameters, in the order of the schemas:
#define WEIGHTS const Tensor &w_ih, const Tensor &w_hh, const Optional &b_ih, const Optional &b_hh
#define ONE_STATE const Tensor &x, const Tensor &hx, WEIGHTS
#define TWO_STATES const Tensor &x, const Tensor &hx, const Tensor &cx, WEIGHTS
#define STEPS const IntList &batch_sizes, bool reverse

// What messages call them; inference forms go by the names of the others.
struct Names {
  const char *layer, *layer_backward, *cell, *cell_backward;
};
#define NAMES(name) Names{name, name "_backward", name "_cell", name "_cell_backward"}

struct Lstm {
  static constexpr Names kNames = NAMES("lstm");

  static Four layer(TWO_STATES, STEPS) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    const Results r = forward(kNames.layer, a, true);
    return {r.y, *r.h_n, *r.c_n, *r.saved};
  }
  static Three layer_inference(TWO_STATES, STEPS) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    const Results r = forward(kNames.layer, a, false);
    return {r.y, *r.h_n, *r.c_n};
  }
  static Seven layer_backward(const Tensor& grad_y, const Optional& grad_hy,
                              const Optional& grad_cy, TWO_STATES, STEPS, const Tensor& saved) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    return seven(backward(kNames.layer_backward, a, grad_y, grad_hy, grad_cy, saved));
  }
  static Three cell(TWO_STATES) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    const Results r = forward(kNames.cell, a, true);
    return {r.y, *r.c_n, *r.saved};
  }
  static Two cell_inference(TWO_STATES) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    const Results r = forward(kNames.cell, a, false);
    return {r.y, *r.c_n};
  }
  static Seven cell_backward(const Tensor& grad_hy, const Optional& grad_cy, TWO_STATES,
                             const Tensor& saved) {
    const Arguments a{Cell::lstm, x, hx, &cx, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    return seven(backward(kNames.cell_backward, a, grad_hy, kNone, grad_cy, saved));
  }
  static Seven seven(const Gradients& g) {
    return {g.x, g.h0, *g.c0, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
  }
};

// Of cells whose one state is h. Options are the kind's own arguments, which cell_of() understands.
template <class Kind, class... Options>
struct OneState {
  static Three layer(ONE_STATE, STEPS, Options... options) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    const Results r = forward(Kind::kNames.layer, a, true);
    return {r.y, *r.h_n, *r.saved};
  }
  static Two layer_inference(ONE_STATE, STEPS, Options... options) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    const Results r = forward(Kind::kNames.layer, a, false);
    return {r.y, *r.h_n};
  }
  static Six layer_backward(const Tensor& grad_y, const Optional& grad_hy, ONE_STATE, STEPS,
                            Options... options, const Tensor& saved) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, &batch_sizes, reverse};
    return six(backward(Kind::kNames.layer_backward, a, grad_y, grad_hy, kNone, saved));
  }
  static Two cell(ONE_STATE, Options... options) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    const Results r = forward(Kind::kNames.cell, a, true);
    return {r.y, *r.saved};
  }
  static Tensor cell_inference(ONE_STATE, Options... options) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    return forward(Kind::kNames.cell, a, false).y;
  }
  static Six cell_backward(const Tensor& grad_hy, ONE_STATE, Options... options,
                           const Tensor& saved) {
    const Cell cell = Kind::cell_of(options...);
    const Arguments a{cell, x, hx, nullptr, w_ih, w_hh, b_ih, b_hh, nullptr, false};
    return six(backward(Kind::kNames.cell_backward, a, grad_hy, kNone, kNone, saved));
  }
  static Six six(const Gradients& g) { return {g.x, g.h0, g.w_ih, g.w_hh, g.b_ih, g.b_hh}; }
};

struct Gru : OneState<Gru> {
  static constexpr Names kNames = NAMES("gru");
  static Cell cell_of() { return Cell::gru; }
};
struct Rnn : OneState<Rnn, bool> {
  static constexpr Names kNames = NAMES("rnn");
  static Cell cell_of(bool relu) { return relu ? Cell::rnn_relu : Cell::rnn_tanh; }
};

template <class Kind, class Library>
void register_ops(Library& library) {
  const auto inference = [](const char* name) { return std::string(name) + "_inference"; };
  constexpr Names names = Kind::kNames;
  library.impl(names.layer, KERNEL(&Kind::layer));
  library.impl(inference(names.layer).c_str(), KERNEL(&Kind::layer_inference));
  library.impl(names.layer_backward, KERNEL(&Kind::layer_backward));
  library.impl(names.cell, KERNEL(&Kind::cell));
  library.impl(inference(names.cell).c_str(), KERNEL(&Kind::cell_inference));
  library.impl(names.cell_backward, KERNEL(&Kind::cell_backward));
}

}  // namespace

REGISTER_KERNELS(library) {
  register_ops<Lstm>(library);
  register_ops<Gru>(library);
  register_ops<Rnn>(library);
}

}  // namespace torchext
