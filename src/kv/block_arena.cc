#include "kv/block_arena.h"

#include <cassert>
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
  return BlockArena(std::move(*memory), stride);
}

std::byte* BlockArena::block(BlockId id) const {
  assert((std::size_t{id} + 1) * stride_ <= memory_.bytes());
  return memory_.start() + id * stride_;
}

}  // namespace tiercel
