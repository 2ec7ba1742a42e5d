#include "kv/block_arena.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace tiercel {

Result<BlockArena> BlockArena::reserve(std::size_t blocks, std::size_t block_bytes) {
  assert(blocks > 0 && block_bytes > 0);
  const std::size_t stride = stride_of(block_bytes);
  std::size_t bytes = 0;
  if (stride == 0 || __builtin_mul_overflow(blocks, stride, &bytes)) {
    return Status::unavailable(fmt::format("{} KV blocks of {} bytes exceed the address space", blocks, block_bytes));
  }
  auto memory = PageMemory::reserve(bytes);
  if (!memory.ok()) return Status::unavailable(fmt::format("KV arena: {}", memory.status().message()));
  return BlockArena(std::move(*memory), blocks, stride);
}

std::byte* BlockArena::block(BlockId id) const {
  assert(id < blocks_);
  return memory_.start() + id * stride_;
}

Status BlockArena::copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to, std::size_t tokens) const {
  const std::size_t row_bytes = layout.head_stride() * size_of(layout.dtype);
  const std::size_t used_bytes = tokens * layout.head_dim * size_of(layout.dtype);
  const std::size_t scales = layout.scale_offset() * size_of(layout.dtype), used_scales = tokens * layout.scale_bytes();
  for (std::size_t row = 0; row < std::size_t{2} * layout.layers * layout.kv_heads; ++row) {
    const std::byte* const source = block(from) + row * row_bytes;
    std::byte* const target = block(to) + row * row_bytes;
    std::memcpy(target, source, used_bytes);
    if (used_scales > 0) std::memcpy(target + scales, source + scales, used_scales);
  }
  return {};
}

std::shared_ptr<std::byte> BlockArena::allocate_host(std::size_t bytes) const {
  const std::shared_ptr<std::byte[]> memory(new std::byte[bytes]);
  return {memory, memory.get()};
}

Status BlockArena::save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const {
  for (const BlockId id : blocks) to = std::copy_n(block(id), block_bytes, to);
  return {};
}

Status BlockArena::load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const {
  for (const BlockId id : blocks) {
    std::memcpy(block(id), from, block_bytes);
    from += block_bytes;
  }
  return {};
}

}  // namespace tiercel
