#include "device/device_arena.h"

#include <cassert>
#include <string>

#include <cuda_runtime_api.h>

#include "device/cuda_status.h"

namespace tiercel {

Result<std::size_t> device_blocks_that_fit(std::size_t block_bytes, std::size_t other_bytes, double share) {
  assert(block_bytes > 0 && share >= 0 && share <= 1);
  std::size_t free = 0, total = 0;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaMemGetInfo(&free, &total), "asking for free GPU memory"));
  const std::size_t left = free > other_bytes ? free - other_bytes : 0;
  const auto blocks = static_cast<std::size_t>(static_cast<double>(left) * share) / block_bytes;
  if (blocks == 0) {
    return Status::resource_exhausted("no KV block of " + std::to_string(block_bytes) + " bytes fits: of " +
                                      std::to_string(total) + " bytes of GPU memory " + std::to_string(free) +
                                      " are free, and " + std::to_string(other_bytes) + " are needed for the model");
  }
  return blocks;
}

Result<DeviceArena> DeviceArena::reserve(std::size_t blocks, std::size_t block_bytes) {
  assert(blocks > 0 && block_bytes > 0 && block_bytes % 16 == 0);
  std::size_t bytes = 0;
  void* start = nullptr;
  const cudaError_t error =
      __builtin_mul_overflow(blocks, block_bytes, &bytes) ? cudaErrorMemoryAllocation : cudaMalloc(&start, bytes);
  TIERCEL_RETURN_IF_ERROR(cuda_status(error, "allocating " + std::to_string(blocks) + " KV blocks of " +
                                                 std::to_string(block_bytes) + " bytes on the GPU"));
  return DeviceArena(static_cast<std::byte*>(start), blocks, block_bytes);
}

DeviceArena::~DeviceArena() {
  if (start_ != nullptr) cudaFree(start_);
}

std::byte* DeviceArena::block(BlockId id) const {
  assert(id < blocks_);
  return start_ + id * block_bytes_;
}

Result<PinnedArena> PinnedArena::reserve(std::size_t blocks, std::size_t block_bytes) {
  assert(blocks > 0 && block_bytes > 0);
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(blocks, block_bytes, &bytes))
    return Status::unavailable("pinned host memory exceeds the address space");
  auto memory = PageMemory::reserve(bytes);
  if (!memory.ok()) return Status::unavailable("pinned host memory: " + memory.status().message());
  const cudaError_t error = cudaHostRegister(memory->start(), bytes, cudaHostRegisterPortable);
  if (error != cudaSuccess) {
    return Status::unavailable(
        cuda_status(error, "pinning " + std::to_string(bytes) + " bytes of host memory").message());
  }
  return PinnedArena(std::move(*memory), block_bytes);
}

PinnedArena::~PinnedArena() {
  if (memory_.start() != nullptr) cudaHostUnregister(memory_.start());
}

std::byte* PinnedArena::block(BlockId id) const {
  assert(id < blocks());
  return memory_.start() + id * block_bytes_;
}

}  // namespace tiercel
