// Where a launch goes: nothing on the CPU; on CUDA the tensor's device and its current stream.
#pragma once

#include "stable.h"

#if TORCHEXT_LIBRARY_CUDA
#include <dlfcn.h>
#endif

namespace torchext {

#if TORCHEXT_LIBRARY_CUDA || TORCHEXT_LIBRARY_EMULATOR
class Context {
 public:
  explicit Context(const Tensor& tensor) : tensor_(tensor) {
    queue.context = this;
    queue.allocate = allocate;
#if TORCHEXT_LIBRARY_CUDA
    guard_.emplace(tensor.get_device_index());
    static const auto get = find_current_stream();
    TORCH_ERROR_CODE_CHECK(get(tensor.get_device_index(), &queue.stream));
#endif
  }
  Context(const Context&) = delete;
  Queue queue;

 private:
  // Torch's allocator keeps to the stream's order: memory may be freed before its work is done.
  static void* allocate(void* self, int64_t bytes) {
    auto& context = *static_cast<Context*>(self);
    const int64_t stride = 1;
    context.kept_.push_back(
        empty_strided(context.tensor_, 1, &bytes, &stride, torch::headeronly::ScalarType::Byte));
    return memory_of(context.kept_.back());
  }

  const Tensor& tensor_;
  std::vector<Tensor> kept_;
#if TORCHEXT_LIBRARY_CUDA
  using GetStream = AOTITorchError (*)(int32_t device, void** stream);
  // A torch without CUDA lacks this symbol: looked up, so that the library itself always loads.
  static GetStream find_current_stream() {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    CHECK(symbol,
          "torchext: CUDA: got a torch without CUDA, expected one that has the tensor's device");
    return reinterpret_cast<GetStream>(symbol);
  }
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif
};
#else
struct Context {
  explicit Context(const Tensor&) {}
  Queue queue;
};
#endif

inline Dims sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Dims(sizes.data(), sizes.size());
}

inline Dims strides_of(const Tensor& tensor) {
  const auto strides = tensor.strides();
  return Dims(strides.data(), strides.size());
}

inline bool is_channels_last(const Tensor& tensor) {
  return is_channels_last(sizes_of(tensor), strides_of(tensor));
}

// A tensor's strides as (n, c, h, w); a 3-d tensor is a batch of one.
inline Strides nchw_strides(const Tensor& tensor) {
  const Dims s = strides_of(tensor);
  return s.rank == 4 ? Strides{s[0], s[1], s[2], s[3]} : Strides{0, s[0], s[1], s[2]};
}

// A fresh dense tensor on `like`'s device.
inline Tensor empty_dense(const char* op, const Tensor& like, const Dims& sizes, bool channels_last,
                          ScalarType type) {
  return empty_strided(like, sizes, dense_strides(op, sizes, channels_last), type);
}

}  // namespace torchext
