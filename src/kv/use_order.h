// Blocks in rings, each ordered by last use: what all eviction policies of this folder are made of.
//
// A clock counts uses; a block has the time of its last one, in a ring or not. 16 bytes per block, no allocation after
// construction. Not synchronised.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "kv/index_allocator.h"
#include "tiercel/types.h"

namespace tiercel {

class UseOrder {
 public:
  UseOrder(std::size_t capacity_blocks, std::size_t rings)
      : first_end_(static_cast<BlockId>(capacity_blocks)), nodes_(capacity_blocks + rings) {
    for (std::size_t end = capacity_blocks; end < nodes_.size(); ++end) {
      nodes_[end].older = nodes_[end].newer = static_cast<BlockId>(end);
    }
  }

  std::uint64_t now() const { return uses_; }
  std::uint64_t last_use(BlockId block) const { return nodes_[block].last_use; }
  bool is_listed(BlockId block) const { return nodes_[block].older != kNoBlock; }

  // The next tick of the clock is `block`'s. It must not be in a ring, where its place would be wrong now.
  void stamp(BlockId block) {
    assert(!is_listed(block));
    nodes_[block].last_use = ++uses_;
  }

  // Into the ring, behind all that were used before it. Mostly that is an end of the ring. A block that became a leaf
  // late may belong anywhere, so its place is sought from both ends at once.
  void insert(std::size_t ring, BlockId block) {
    assert(!is_listed(block));
    const std::uint64_t time = nodes_[block].last_use;
    BlockId older = nodes_[end_of(ring)].older;
    BlockId newer = nodes_[end_of(ring)].newer;
    while (older != end_of(ring)) {
      if (nodes_[older].last_use <= time) break;
      if (nodes_[newer].last_use > time) {
        older = nodes_[newer].older;
        break;
      }
      older = nodes_[older].older;
      newer = nodes_[newer].newer;
    }
    newer = nodes_[older].newer;
    nodes_[block].older = older;
    nodes_[block].newer = newer;
    nodes_[older].newer = nodes_[newer].older = block;
  }

  void remove(BlockId block) {
    assert(is_listed(block));
    Node& node = nodes_[block];
    nodes_[node.older].newer = node.newer;
    nodes_[node.newer].older = node.older;
    node.older = node.newer = kNoBlock;
  }

  // The least recently used block of the ring, or kNoBlock.
  BlockId oldest(std::size_t ring) const {
    const BlockId block = nodes_[end_of(ring)].newer;
    return block == end_of(ring) ? kNoBlock : block;
  }

  // The most recently used one, or kNoBlock.
  BlockId newest(std::size_t ring) const {
    const BlockId block = nodes_[end_of(ring)].older;
    return block == end_of(ring) ? kNoBlock : block;
  }

  // Empties ring `from`: its blocks stand before those of `into`, however long ago they were used.
  void move_before(std::size_t from, std::size_t into) {
    const BlockId oldest_moved = nodes_[end_of(from)].newer;
    const BlockId newest_moved = nodes_[end_of(from)].older;
    if (oldest_moved == end_of(from)) return;
    const BlockId oldest_kept = nodes_[end_of(into)].newer;
    nodes_[end_of(into)].newer = oldest_moved;
    nodes_[oldest_moved].older = end_of(into);
    nodes_[newest_moved].newer = oldest_kept;
    nodes_[oldest_kept].older = newest_moved;
    nodes_[end_of(from)].older = nodes_[end_of(from)].newer = end_of(from);
  }

  std::size_t metadata_bytes() const { return nodes_.capacity() * sizeof(Node); }

 private:
  struct Node {
    std::uint64_t last_use = 0;
    BlockId older = kNoBlock;  // kNoBlock: in no ring
    BlockId newer = kNoBlock;
  };

  // Closes a ring: newer than its newest block, older than its oldest.
  BlockId end_of(std::size_t ring) const { return first_end_ + static_cast<BlockId>(ring); }

  const BlockId first_end_;
  BlockArray<Node> nodes_;  // by block, then the ends of the rings
  std::uint64_t uses_ = 0;
};

}  // namespace tiercel
