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
  const std::string what = std::to_string(blocks) + " KV blocks of " + std::to_string(block_bytes) + " bytes";
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(blocks, block_bytes, &bytes)) {
    return Status::resource_exhausted(what + " are more than any GPU's memory");
  }
  auto memory = DeviceBuffer::allocate(bytes, what);
  if (!memory.ok()) return memory.status();
  return DeviceArena(*std::move(memory), blocks, block_bytes);
}

std::byte* DeviceArena::block(BlockId id) const {
  assert(id < blocks_);
  return start() + id * block_bytes_;
}

}  // namespace tiercel
