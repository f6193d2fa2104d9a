// The only file that spells torch::stable: aliases and the few tensor helpers every op needs.
// Built with TORCH_TARGET_VERSION 2.10, so that one binary serves every later torch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "check.h"
#include "large_pages.h"
#include "layout.h"
#include "plain.h"

#if TORCHEXT_LIBRARY_EMULATOR
#include "../emulator/device.h"
#endif

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

#if TORCHEXT_LIBRARY_EMULATOR
inline emulator::View view_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return {tensor.data_ptr(),
          {sizes.begin(), sizes.end()},
          {strides.begin(), strides.end()},
          static_cast<int64_t>(tensor.element_size()),
          std::make_shared<Tensor>(tensor)};
}
#endif

// Where a tensor's elements lie: becomes the pointer it is assigned to, null of no tensor. A kernel
// only reads through pointers to const.
class Memory {
 public:
  explicit Memory(const Tensor* tensor) : tensor_(tensor) {}
  template <class T>
  operator T*() const {
    if (tensor_ == nullptr) return nullptr;
#if TORCHEXT_LIBRARY_EMULATOR
    return static_cast<T*>(emulator::adopt(view_of(*tensor_), !std::is_const_v<T>));
#else
    return static_cast<T*>(tensor_->data_ptr());
#endif
  }

 private:
  const Tensor* tensor_;
};
inline Memory memory_of(const Tensor& tensor) { return Memory(&tensor); }
inline Memory memory_of(const Tensor* tensor) { return Memory(tensor); }
inline Memory memory_of(const std::optional<Tensor>& tensor) {
  return Memory(tensor.has_value() ? &*tensor : nullptr);
}

// Torch's own functions that fill a tensor.
inline void note_written(const Tensor& tensor) {
#if TORCHEXT_LIBRARY_EMULATOR
  emulator::note_written(tensor.data_ptr());
#else
  (void)tensor;
#endif
}
inline void copy_into(Tensor& to, const Tensor& from) {
  torch::stable::copy_(to, from);
  note_written(to);
}
inline void fill(Tensor& tensor, double value) {
  torch::stable::fill_(tensor, value);
  note_written(tensor);
}

inline void check_tensor(const char* op, const char* argument, const Tensor& tensor) {
  CHECK(tensor.defined(), op, ": ", argument, ": got no tensor, expected one");
  int32_t layout;
  aoti_torch_get_layout(tensor.get(), &layout);
  CHECK(layout == aoti_torch_layout_strided(), op, ": ", argument,
        ": got a sparse or opaque layout, expected a strided tensor");
  CHECK(on_backend_device(tensor), op, ": ", argument,
        ": got a tensor on another device, expected one on the device of the other arguments");
#if TORCHEXT_LIBRARY_EMULATOR
  emulator::name(tensor.data_ptr(), argument);
#endif
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

// The ops' schemas, and, in the last lines of an op's file, its implementations for the device this
// library is built for. The emulator's ops are CPU ops of a namespace of their own.
#if TORCHEXT_LIBRARY_EMULATOR
#define DEFINE_OPS(library) STABLE_TORCH_LIBRARY(torchext_emu, library)
#define REGISTER_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(torchext_emu, CPU, library)
#define KERNEL(function) TORCH_BOX((&Emulated<function>::call))
#else
#define DEFINE_OPS(library) STABLE_TORCH_LIBRARY(torchext, library)
#define REGISTER_KERNELS(library) REGISTER_KERNELS_FOR(TORCHEXT_DISPATCH_KEY, library)
#define REGISTER_KERNELS_FOR(key, library) STABLE_TORCH_LIBRARY_IMPL(torchext, key, library)
#define KERNEL(function) TORCH_BOX(function)
#endif

#if TORCHEXT_LIBRARY_EMULATOR
template <auto>
struct Emulated;
template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Emulated<function> {
  static Result call(Arguments... arguments) {
    const emulator::Call call;
    return function(arguments...);
  }
};
#endif

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
#if TORCHEXT_LIBRARY_EMULATOR
  emulator::note_fresh(tensor.data_ptr(), "a result");
#elif !TORCHEXT_LIBRARY_CUDA
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
