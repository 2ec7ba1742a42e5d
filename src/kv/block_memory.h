// Where the bytes of KV blocks are: in host memory (BlockArena), or on a GPU (device/device_block_memory.h). The cache
// and the tiers move blocks by these calls alone, so they are the same code for both.
//
// Thread-safety: every method may be called from any thread, by several at once for different blocks. Who may read and
// write a block at all is for the users of the blocks to order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class BlockMemory {
 public:
  // Every block of host memory starts at a multiple of this; the memory itself at a multiple of 4096, so blocks whose
  // size is a multiple of 4096 are aligned to that.
  static constexpr std::size_t kBlockAlignment = 64;
  // `block_bytes` rounded up to the alignment: what one block takes. 0 where that overflows.
  static constexpr std::size_t stride_of(std::size_t block_bytes) {
    return (block_bytes + (kBlockAlignment - 1)) & ~(kBlockAlignment - 1);
  }

  virtual ~BlockMemory() = default;

  // Of a GPU: device memory.
  virtual std::byte* block(BlockId id) const = 0;
  virtual std::size_t blocks() const = 0;
  virtual std::size_t stride() const = 0;
  std::size_t bytes() const { return blocks() * stride(); }

  // Copy-on-write: K and V of the first `tokens` tokens, of all layers and heads. Not Ok: `to` holds anything.
  virtual Status copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to, std::size_t tokens) const = 0;
  // Has the system back these bytes now. False: there is nothing to back, or no memory.
  virtual bool populate(std::size_t offset, std::size_t bytes) const = 0;

  // Whether tiers may read into blocks themselves. Otherwise they read into memory of allocate_host(), and load().
  virtual bool is_host() const = 0;
  // Host memory that blocks are copied to and from as fast as can be. May throw std::bad_alloc.
  virtual std::shared_ptr<std::byte> allocate_host(std::size_t bytes) const = 0;
  // The bytes of `blocks`, `block_bytes` each, side by side, from there and to there. They are there when the call
  // returns.
  virtual Status save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const = 0;
  virtual Status load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const = 0;
  // As load(), but it may return before they are there. Who reads or writes them by these calls, or in a step of a
  // model that knows of this memory (ModelRunner::compute_over()), finds them there all the same. `from` is read until
  // finish_load() of the number returned.
  virtual Result<std::uint64_t> begin_load(const std::byte* from, std::size_t block_bytes,
                                           std::span<const BlockId> blocks) const {
    TIERCEL_RETURN_IF_ERROR(load(from, block_bytes, blocks));
    return std::uint64_t{0};
  }
  // Not Ok: what the blocks hold is not known, and no step succeeds any more. 0 and what is finished: Ok.
  virtual Status finish_load(std::uint64_t) const { return {}; }
};

}  // namespace tiercel
