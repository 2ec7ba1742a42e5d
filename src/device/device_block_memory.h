// KV blocks on a GPU, as the cache and the tiers see them (kv/block_memory.h): a DeviceArena, and copies between it and
// pinned host memory on streams of their own, beside the computation.
//
// A step of the model is through when ModelRunner::step() returns, and a copy when its call does; so nobody is given a
// block that is still written or read. Loads alone may be on their way while their blocks go from hand to hand: whoever
// touches one waits for the last load to it. These are the copies here, later loads, which come behind in the same
// stream, and the steps of a model that has asked for loads_for_steps().
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "device/copy_engine.h"
#include "device/cuda_stream.h"
#include "device/device_arena.h"
#include "device/device_loads.h"
#include "kv/block_memory.h"

namespace tiercel {

class DeviceBlockMemory final : public BlockMemory {
 public:
  // On the current GPU, which every call is about, whatever thread makes it. ResourceExhausted where the GPU's memory
  // does not suffice.
  static Result<std::shared_ptr<DeviceBlockMemory>> reserve(std::size_t blocks, const KvLayout& layout);

  std::byte* block(BlockId id) const override { return arena_.block(id); }
  std::size_t blocks() const override { return arena_.blocks(); }
  std::size_t stride() const override { return arena_.block_bytes(); }
  Status copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to, std::size_t tokens) const override;
  bool populate(std::size_t, std::size_t) const override { return false; }  // it is all there
  bool is_host() const override { return false; }
  // Pinned; where the system gives none, any memory: copies are slower then.
  std::shared_ptr<std::byte> allocate_host(std::size_t bytes) const override;
  Status save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const override;
  Status load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const override;
  // On their way when it returns, once a model's steps wait for loads.
  Result<std::uint64_t> begin_load(const std::byte* from, std::size_t block_bytes,
                                   std::span<const BlockId> blocks) const override;
  Status finish_load(std::uint64_t load) const override;

  // For a model whose steps wait for what is on its way to their blocks. Before any load.
  DeviceLoads& loads_for_steps() const {
    steps_wait_ = true;
    return loads_;
  }

 private:
  DeviceBlockMemory(int device, DeviceArena arena, CudaStream within, CopyEngine loads, CopyEngine saves);
  Result<std::uint64_t> begin(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const;
  // Until what is on its way to these blocks is there.
  Status settle(std::span<const BlockId> blocks) const { return loads_.finish(loads_.newest_to(blocks)); }
  std::vector<BlockTransfer> transfers(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* host) const;

  const int device_;
  const DeviceArena arena_;
  mutable std::mutex within_mutex_;  // guards the stream
  const CudaStream within_;  // copies within the arena; what loads and saves are ordered after, which is nothing
  mutable DeviceLoads loads_;
  mutable std::atomic<bool> steps_wait_ = false;
  mutable std::mutex saves_mutex_;  // guards the engine
  mutable CopyEngine saves_;
};

}  // namespace tiercel
