// The memory of KV blocks on a GPU, and the host memory that copy engines reach: one piece each, cut into blocks
// without gaps, as the CUDA kernels take them. Both own their memory and are move-only; const after reserve(), and then
// thread-safe.
#pragma once

#include <cstddef>
#include <utility>

#include "base/page_memory.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// How many blocks of `block_bytes` to reserve on the current GPU, of the memory that is free now: `share` of it (0 to
// 1), after `other_bytes` that are still to be allocated for weights and activations. ResourceExhausted where that is
// less than one block.
Result<std::size_t> device_blocks_that_fit(std::size_t block_bytes, std::size_t other_bytes, double share);

class DeviceArena {
 public:
  // `block_bytes` is a multiple of 16. ResourceExhausted where the GPU's memory does not suffice.
  static Result<DeviceArena> reserve(std::size_t blocks, std::size_t block_bytes);
  DeviceArena(DeviceArena&& other) noexcept
      : start_(std::exchange(other.start_, nullptr)), blocks_(other.blocks_), block_bytes_(other.block_bytes_) {}
  DeviceArena& operator=(DeviceArena&& other) = delete;
  ~DeviceArena();

  std::byte* start() const { return start_; }  // device memory
  std::byte* block(BlockId id) const;
  std::size_t blocks() const { return blocks_; }
  std::size_t block_bytes() const { return block_bytes_; }

 private:
  DeviceArena(std::byte* start, std::size_t blocks, std::size_t block_bytes)
      : start_(start), blocks_(blocks), block_bytes_(block_bytes) {}
  std::byte* start_;
  std::size_t blocks_, block_bytes_;
};

// Host memory whose pages stay where they are, so that copies to and from the GPU need no staging and run beside
// everything else. All of it is taken from the system at once.
class PinnedArena {
 public:
  // Unavailable where the system gives no memory, or CUDA cannot pin it (limits of the container, for example).
  static Result<PinnedArena> reserve(std::size_t blocks, std::size_t block_bytes);
  PinnedArena(PinnedArena&& other) noexcept = default;
  PinnedArena& operator=(PinnedArena&& other) = delete;
  ~PinnedArena();

  std::byte* block(BlockId id) const;
  std::size_t blocks() const { return memory_.bytes() / block_bytes_; }

 private:
  PinnedArena(PageMemory memory, std::size_t block_bytes) : memory_(std::move(memory)), block_bytes_(block_bytes) {}
  PageMemory memory_;
  std::size_t block_bytes_;
};

}  // namespace tiercel
