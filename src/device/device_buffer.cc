#include "device/device_buffer.h"

#include <cassert>
#include <string>

#include <cuda_runtime_api.h>

#include "device/cuda_status.h"

namespace tiercel {
namespace {

std::string allocating(std::size_t bytes, std::string_view kind, std::string_view what) {
  return "allocating " + std::to_string(bytes) + " bytes of " + std::string(kind) + " for " + std::string(what);
}

}  // namespace

Result<DeviceBuffer> DeviceBuffer::allocate(std::size_t bytes, std::string_view what) {
  assert(bytes > 0);
  void* start = nullptr;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaMalloc(&start, bytes), allocating(bytes, "GPU memory", what)));
  return DeviceBuffer(static_cast<std::byte*>(start), bytes);
}

DeviceBuffer::~DeviceBuffer() {
  if (start_ != nullptr) cudaFree(start_);
}

Result<PinnedBuffer> PinnedBuffer::allocate(std::size_t bytes, std::string_view what) {
  assert(bytes > 0);
  void* start = nullptr;
  const Status status =
      cuda_status(cudaHostAlloc(&start, bytes, cudaHostAllocPortable), allocating(bytes, "pinned memory", what));
  if (!status.ok()) return Status::unavailable(status.message());
  return PinnedBuffer(static_cast<std::byte*>(start));
}

PinnedBuffer::~PinnedBuffer() {
  if (start_ != nullptr) cudaFreeHost(start_);
}

}  // namespace tiercel
