// The memory of KV blocks on the host: one reservation of address space, cut into blocks of equal stride.
//
// Owns the mapping; move-only. Pages are backed by the system when first written, so a large arena costs nothing until
// it is used. Const after reserve().
#pragma once

#include <cstddef>
#include <utility>

#include "base/page_memory.h"
#include "kv/block_memory.h"

namespace tiercel {

class BlockArena final : public BlockMemory {
 public:
  // Both at least 1. Unavailable where the system gives no address space.
  static Result<BlockArena> reserve(std::size_t blocks, std::size_t block_bytes);

  std::byte* block(BlockId id) const override;
  std::size_t blocks() const override { return blocks_; }
  std::size_t stride() const override { return stride_; }
  Status copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to, std::size_t tokens) const override;
  // PageMemory::populate()
  bool populate(std::size_t offset, std::size_t bytes) const override { return memory_.populate(offset, bytes); }
  bool is_host() const override { return true; }
  std::shared_ptr<std::byte> allocate_host(std::size_t bytes) const override;
  Status save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const override;
  Status load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const override;

 private:
  BlockArena(PageMemory memory, std::size_t blocks, std::size_t stride)
      : memory_(std::move(memory)), blocks_(blocks), stride_(stride) {}

  PageMemory memory_;
  std::size_t blocks_ = 0;
  std::size_t stride_ = 0;
};

}  // namespace tiercel
