// The Python module torchext._host: build facts, CPU features, and the concrete shape rules, which
// the tests compare with what the Python side predicts. Needs neither torch nor the op libraries.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"
#include "op/pool2d_shape.h"

namespace py = pybind11;
using torchext::Dims;
using torchext::IntList;

namespace {

using Shape = std::pair<IntList, IntList>;  // sizes, strides

Dims dims(const IntList& list) { return Dims(list.data(), static_cast<int64_t>(list.size())); }
IntList list(const Dims& dims) { return IntList(dims.values, dims.values + dims.rank); }

Shape pooled_shape(const char* op, const IntList& sizes, const IntList& strides,
                   const torchext::Pool2d& p) {
  const bool channels_last = torchext::is_channels_last(dims(sizes), dims(strides));
  const Dims out = torchext::with_spatial_size(dims(sizes), p.OH, p.OW);
  return {list(out), list(torchext::dense_strides(op, out, channels_last))};
}

Shape pool2d_shape(const std::string& op, const IntList& sizes, const IntList& strides,
                   const IntList& kernel_size, const IntList& stride, const IntList& padding,
                   const IntList& dilation, bool ceil_mode) {
  return pooled_shape(op.c_str(), sizes, strides,
                      torchext::make_pool2d(op.c_str(), dims(sizes),
                                            {kernel_size, stride, padding, dilation, ceil_mode}));
}

Shape adaptive_pool2d_shape(const std::string& op, const IntList& sizes, const IntList& strides,
                            const IntList& output_size) {
  return pooled_shape(
      op.c_str(), sizes, strides,
      torchext::make_adaptive_pool2d(op.c_str(), dims(sizes),
                                     torchext::pair_of(op.c_str(), "output_size", output_size, 0)));
}

py::dict cpu_features() {
  using torchext::cpu::Isa;
  py::dict features;
  for (int i = 0; i < torchext::cpu::kIsas; ++i) {
    features[torchext::cpu::kIsaNames[i]] = torchext::cpu::cpu_has(static_cast<Isa>(i));
  }
  return features;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.def("cpu_features", &cpu_features, "Which ISAs of the CPU kernels this machine can run.");
  m.def("pool2d_shape", &pool2d_shape);
  m.def("adaptive_pool2d_shape", &adaptive_pool2d_shape);
}
