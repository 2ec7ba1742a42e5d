// The memory of KV blocks on a GPU: one piece, cut into blocks without gaps, as the CUDA kernels take them. Owned;
// move-only; const after reserve(), and then thread-safe.
#pragma once

#include <cstddef>
#include <utility>

#include "device/device_buffer.h"
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

  std::byte* start() const { return memory_.start(); }  // device memory
  std::byte* block(BlockId id) const;
  std::size_t blocks() const { return blocks_; }
  std::size_t block_bytes() const { return block_bytes_; }

 private:
  DeviceArena(DeviceBuffer memory, std::size_t blocks, std::size_t block_bytes)
      : memory_(std::move(memory)), blocks_(blocks), block_bytes_(block_bytes) {}

  DeviceBuffer memory_;
  std::size_t blocks_, block_bytes_;
};

}  // namespace tiercel
