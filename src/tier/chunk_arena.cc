#include "tier/chunk_arena.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

namespace tiercel {

Result<ChunkArena> ChunkArena::reserve(std::size_t capacity_bytes, std::size_t chunk_bytes) {
  assert(BlockMemory::stride_of(chunk_bytes) == chunk_bytes);
  const std::size_t chunks = std::min<std::size_t>(capacity_bytes / (chunk_bytes + sizeof(ChunkId)), kNoBlock);
  assert(chunks > 0);
  auto arena = BlockArena::reserve(chunks, chunk_bytes);
  if (!arena.ok()) return arena.status();
  return ChunkArena(*std::move(arena), chunks, chunk_bytes);
}

ChunkArena::ChunkId ChunkArena::put(std::span<const std::byte> bytes) {
  ChunkId first = kNoBlock;
  ChunkId* link = &first;  // next_ does not move: it was reserved
  while (!bytes.empty()) {
    if (free_ != kNoBlock) {
      *link = std::exchange(free_, next_[free_]);
    } else {
      assert(next_.size() < next_.capacity());
      *link = static_cast<ChunkId>(next_.size());
      next_.push_back(kNoBlock);
    }
    const std::size_t here = std::min(bytes.size(), chunk_bytes_);
    std::memcpy(chunk(*link), bytes.data(), here);
    bytes = bytes.subspan(here);
    link = &next_[*link];
  }
  *link = kNoBlock;
  return first;
}

void ChunkArena::get(ChunkId first, std::span<std::byte> bytes, CheckedCopy& copy) const {
  for (ChunkId id = first; !bytes.empty(); id = next_[id]) {
    const std::size_t here = std::min(bytes.size(), chunk_bytes_);
    copy.add({chunk(id), here}, bytes.first(here));
    bytes = bytes.subspan(here);
  }
}

void ChunkArena::give_back(ChunkId first) {
  ChunkId last = first;
  while (next_[last] != kNoBlock) last = next_[last];
  next_[last] = std::exchange(free_, first);
}

std::size_t ChunkArena::counted_bytes() const {
  std::size_t used = next_.size();
  for (ChunkId id = free_; id != kNoBlock; id = next_[id]) --used;
  return used * (chunk_bytes_ + sizeof(ChunkId));
}

}  // namespace tiercel
