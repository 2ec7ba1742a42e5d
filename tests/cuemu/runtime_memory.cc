// Memory and copies. Compiled without instrumentation, like grid.cc.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/cuemu/runtime_call.h"

namespace cuemu {
namespace {

struct Copy {
  bool valid = false, from_pageable = false, to_pageable = false;
};

Copy look_at(const Device& d, const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = d.is_device(to, bytes), from_device = d.is_device(from, bytes);
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  Copy copy;
  copy.valid = kind == cudaMemcpyDefault || (to_device == wants_to && from_device == wants_from);
  copy.from_pageable = !from_device && !d.is_pinned(from, bytes);
  copy.to_pageable = !to_device && !d.is_pinned(to, bytes);
  return copy;
}

// Memory that is not pinned is read by the caller, before this returns.
std::shared_ptr<char[]> staged(const void* from, std::size_t bytes) {
  std::shared_ptr<char[]> staging(new char[bytes]);
  std::memcpy(staging.get(), from, bytes);
  return staging;
}

cudaError_t copy(const char* function, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream, bool counts_as_call) {
  bool to_pageable = false;
  int on = 0;
  const cudaError_t error = call(function, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    const Copy what = look_at(d, to, from, bytes, kind);
    if (!what.valid) return cudaErrorInvalidValue;
    const bool pageable = what.from_pageable || what.to_pageable;
    if (pageable && is_capturing(d, stream)) return cudaErrorStreamCaptureUnsupported;
    d.counts.copies += 1;
    d.counts.pageable_copies += pageable ? 1 : 0;
    d.counts.copy_calls += counts_as_call ? 1 : 0;
    if (what.from_pageable) {
      d.queue(d.stream(stream), [to, staging = staged(from, bytes), bytes] { std::memcpy(to, staging.get(), bytes); });
    } else {
      d.queue(d.stream(stream), [=] { std::memcpy(to, from, bytes); });
    }
    to_pageable = what.to_pageable;
    on = d.stream(stream).device;
    return d.broken(on);
  });
  if (error != cudaSuccess || !to_pageable) return error;
  return waiting_call("", on, [&](Device& d) { return d.finish(d.stream(stream)); });
}

bool is_broken(cudaError_t error) {
  const Lock lock;
  return error != cudaSuccess && error == device().broken(current_device);
}

// When the device is through with all, as a device does. `release` says whether it knows the memory; if not, `unknown`.
template <class Release>
cudaError_t give_back(const char* function, cudaError_t unknown, const Release& release) {
  cudaError_t error = finish_current_device(function);
  if (error == cudaSuccess) error = call("", [&](Device& d) { return release(d) ? cudaSuccess : unknown; });
  // Of a broken device memory is still taken back, so that a test can end.
  if (is_broken(error)) {
    const Unseen unseen;
    const Lock lock;
    device().acquire_broken();
    release(device());
  }
  return error;
}

}  // namespace
}  // namespace cuemu

using cuemu::call;
using cuemu::Device;
using cuemu::give_back;

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call(__func__, [&](Device& d) {
    *free = d.free_bytes();
    *total = d.options().memory_bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return call(__func__, [&](Device& d) {
    *memory = bytes == 0 ? nullptr : d.allocate(bytes);
    return *memory == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    *memory = bytes == 0 ? nullptr : d.allocate(bytes);
    return *memory == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  return give_back(__func__, cudaErrorInvalidValue, [&](Device& d) { return d.free(memory); });
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (!d.is_device(memory, 1)) return cudaErrorInvalidValue;
    d.queue(d.stream(stream), [&d, memory] { d.free(memory); });
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return call(__func__, [&](Device& d) {
    *memory = nullptr;
    if (posix_memalign(memory, 4096, bytes) != 0) return cudaErrorMemoryAllocation;
    d.pin(*memory, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const cudaError_t error = give_back(__func__, cudaErrorInvalidValue, [&](Device& d) { return d.unpin(memory); });
  if (error != cudaErrorInvalidValue) std::free(memory);
  return error;
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
  return call(__func__,
              [&](Device& d) { return d.pin(memory, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered; });
}

cudaError_t cudaHostUnregister(void* memory) {
  return give_back(__func__, cudaErrorHostMemoryNotRegistered, [&](Device& d) { return d.unpin(memory); });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cuemu::copy(__func__, to, from, bytes, kind, nullptr, true);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cuemu::copy(__func__, to, from, bytes, kind, stream, true);
}

// Within device memory.
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
    if (kind != cudaMemcpyDeviceToDevice) return cudaErrorNotSupported;
    if (width == 0 || height == 0) return cudaSuccess;
    const auto bytes = [&](std::size_t pitch) { return (height - 1) * pitch + width; };
    if (!d.is_device(to, bytes(to_pitch)) || !d.is_device(from, bytes(from_pitch))) return cudaErrorInvalidValue;
    ++d.counts.copies;
    ++d.counts.copy_calls;
    d.queue(d.stream(stream), [=] {
      for (std::size_t row = 0; row < height; ++row) {
        std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
      }
    });
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const std::size_t* bytes, std::size_t count,
                                 cudaMemcpyAttributes* attributes, std::size_t* attribute_begins,
                                 std::size_t attribute_count, cudaStream_t stream) {
  // CUDA refuses the default stream and captures here, and wants attributes that cover every copy.
  if (stream == nullptr || count == 0 || attribute_count == 0 || attributes == nullptr || attribute_begins[0] != 0) {
    return cuemu::note(cudaErrorInvalidValue);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const cudaError_t error = cuemu::copy(__func__, to[i], from[i], bytes[i], cudaMemcpyDefault, stream, i == 0);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(memory, value, bytes, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (!d.is_device(memory, bytes)) return cudaErrorInvalidValue;
    d.queue(d.stream(stream), [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
  });
}
