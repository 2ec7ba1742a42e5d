// The memory of KV blocks: one reservation of address space, cut into blocks of equal stride.
//
// Owns the mapping; move-only. Pages are backed by the system when first written, so a large arena costs nothing until
// it is used. Thread-safety: const after reserve(); the bytes themselves are for the users of the blocks to order.
#pragma once

#include <cstddef>
#include <utility>

#include "base/page_memory.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class BlockArena {
 public:
  // Every block starts at a multiple of this; the arena itself at a multiple of 4096, so blocks whose size is a
  // multiple of 4096 are aligned to that.
  static constexpr std::size_t kBlockAlignment = 64;
  // `block_bytes` rounded up to the alignment: what one block takes. 0 where that overflows.
  static constexpr std::size_t stride_of(std::size_t block_bytes) {
    return (block_bytes + (kBlockAlignment - 1)) & ~(kBlockAlignment - 1);
  }

  // Both at least 1. Unavailable where the system gives no address space.
  static Result<BlockArena> reserve(std::size_t blocks, std::size_t block_bytes);

  std::byte* block(BlockId id) const;
  std::size_t bytes() const { return memory_.bytes(); }
  // PageMemory::populate()
  bool populate(std::size_t offset, std::size_t bytes) const { return memory_.populate(offset, bytes); }
  std::size_t stride() const { return stride_; }

 private:
  BlockArena(PageMemory memory, std::size_t stride) : memory_(std::move(memory)), stride_(stride) {}

  PageMemory memory_;
  std::size_t stride_ = 0;
};

}  // namespace tiercel
