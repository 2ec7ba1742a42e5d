// Memory for stored blocks of any size: one reservation, cut into equal chunks, a block being a chain of these.
//
// No room is lost to fragmentation, however sizes and ages mix: a block that fits by its number of chunks fits. What is
// wasted is half a chunk per block on average. Links are kept beside the chunks, as a file allocation table (Microsoft,
// FAT, 1977), so that a chunk is as aligned as its size.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/block_arena.h"
#include "tier/checked_copy.h"

namespace tiercel {

class ChunkArena {
 public:
  using ChunkId = std::uint32_t;

  // As many chunks as `capacity_bytes` has room for, their links included: at least one. Unavailable where the system
  // gives no address space; throws std::bad_alloc. Memory is taken when chunks are first written.
  static Result<ChunkArena> reserve(std::size_t capacity_bytes, std::size_t chunk_bytes);

  // What `bytes` bytes, at least 1, take of the capacity.
  static constexpr std::size_t taken_bytes(std::size_t bytes, std::size_t chunk_bytes) {
    return (bytes + chunk_bytes - 1) / chunk_bytes * (chunk_bytes + sizeof(ChunkId));
  }
  std::size_t taken_bytes(std::size_t bytes) const { return taken_bytes(bytes, chunk_bytes_); }

  // The caller keeps count of taken_bytes() against the capacity; so there is always room.
  ChunkId put(std::span<const std::byte> bytes);
  // Copies what was put there.
  void get(ChunkId first, std::span<std::byte> bytes, CheckedCopy& copy) const;
  void give_back(ChunkId first);

  std::byte* chunk(ChunkId id) const { return arena_.block(id); }

  // Of the capacity, what blocks take now, counted from the chunks that are not free. Slow; for tests.
  std::size_t counted_bytes() const;

 private:
  ChunkArena(BlockArena arena, std::size_t chunks, std::size_t chunk_bytes)
      : arena_(std::move(arena)), chunk_bytes_(chunk_bytes) {
    next_.reserve(chunks);
  }

  BlockArena arena_;
  std::size_t chunk_bytes_;
  std::vector<ChunkId> next_;  // of every chunk that was ever used; kNoBlock ends a chain
  ChunkId free_ = kNoBlock;    // a chain too
};

}  // namespace tiercel
