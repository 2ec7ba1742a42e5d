// KV blocks on a GPU, as the cache and the tiers see them (kv/block_memory.h): a DeviceArena, and copies between it and
// pinned host memory on streams of their own, beside the computation.
//
// A copy is through when its call returns, and a step of the model when ModelRunner::step() does. So a block that was
// computed, copied or loaded is there before anybody else may have it, and none is given away while a kernel reads it:
// streams need not wait for each other.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "device/copy_engine.h"
#include "device/cuda_stream.h"
#include "device/device_arena.h"
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

 private:
  // One at a time.
  struct Copies {
    std::mutex mutex;
    CopyEngine engine;
    std::vector<BlockTransfer> transfers = {};
  };

  DeviceBlockMemory(int device, DeviceArena arena, CudaStream within, CopyEngine loads, CopyEngine saves);
  template <class Begin>
  Status move(Copies& copies, std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* host,
              const Begin& begin) const;

  const int device_;
  const DeviceArena arena_;
  mutable std::mutex within_mutex_;  // guards the stream
  const CudaStream within_;  // copies within the arena; what loads and saves are ordered after, which is nothing
  mutable Copies loads_, saves_;
};

}  // namespace tiercel
