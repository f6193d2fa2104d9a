// The only file that spells torch::stable: aliases and the few tensor helpers every op needs.
// Built with TORCH_TARGET_VERSION 2.10, so that one binary serves every later torch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "large_pages.h"
#include "layout.h"
#include "plain.h"

namespace torchext {

using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

// What a library's tensors must live on: each backend's library checks for its own device.
inline bool on_backend_device(const Tensor& tensor) {
#if TORCHEXT_LIBRARY_CUDA
  return tensor.is_cuda();
#else
  return tensor.is_cpu();
#endif
}

inline void check_tensor(const char* op, const char* argument, const Tensor& tensor) {
  CHECK(tensor.defined(), op, ": ", argument, ": got no tensor, expected one");
  int32_t layout;
  aoti_torch_get_layout(tensor.get(), &layout);
  CHECK(layout == aoti_torch_layout_strided(), op, ": ", argument,
        ": got a sparse or opaque layout, expected a strided tensor");
  CHECK(on_backend_device(tensor), op, ": ", argument,
        ": got a tensor on another device, expected one on the device of the other arguments");
}

// A tensor that goes with `first`, which is called `whose` in errors: of the same dtype.
inline void check_companion(const char* op, const char* argument, const Tensor& tensor,
                            const Tensor& first, const char* whose = "the input's") {
  check_tensor(op, argument, tensor);
  CHECK(tensor.scalar_type() == first.scalar_type(), op, ": ", argument, ": got dtype ",
        torch::headeronly::toString(tensor.scalar_type()), ", expected ", whose, ", ",
        torch::headeronly::toString(first.scalar_type()));
}

inline DType floating_dtype(const char* op, const char* argument, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      CHECK(false, op, ": ", argument, ": got dtype ",
            torch::headeronly::toString(tensor.scalar_type()),
            ", expected Float, Double, BFloat16 or Half");
  }
}

// Registers implementations for the device this library is built for; the last lines of an op's
// file.
#define REGISTER_KERNELS(library) REGISTER_KERNELS_FOR(TORCHEXT_DISPATCH_KEY, library)
#define REGISTER_KERNELS_FOR(key, library) STABLE_TORCH_LIBRARY_IMPL(torchext, key, library)

// A fresh tensor of `like`'s device, of any strides (in elements).
inline Tensor empty_strided(const Tensor& like, int64_t rank, const int64_t* sizes,
                            const int64_t* strides, ScalarType type) {
  int32_t device_type, device_index;
  aoti_torch_get_device_type(like.get(), &device_type);
  aoti_torch_get_device_index(like.get(), &device_index);
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes, strides, static_cast<int32_t>(type),
                                                  device_type, device_index, &handle));
  const Tensor tensor(handle);
#if !TORCHEXT_LIBRARY_CUDA
  int64_t bytes = 0;
  aoti_torch_get_storage_size(handle, &bytes);
  if (bytes >= kWorthLargePages) ask_for_large_pages(tensor.mutable_data_ptr(), bytes);
#endif
  return tensor;
}
inline Tensor empty_strided(const Tensor& like, const Dims& sizes, const Dims& strides,
                            ScalarType type) {
  return empty_strided(like, sizes.rank, sizes.values, strides.values, type);
}

}  // namespace torchext
