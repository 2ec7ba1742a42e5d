// Which cached block goes when a new one needs its place: a pure decision over block ids.
//
// The prefix index decides what may go (leaves of the prefix tree that no lease holds) and tells the policy; the policy
// only orders them. It does no I/O, holds no block and never sees a token. Calls come one at a time, under the cache's
// lock, so an implementation needs no locking of its own and must not call back into the cache.
//
// Chosen by KvCacheOptions::eviction: lru(), lfu(), adaptive(), or a function of the user's that makes their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "tiercel/types.h"

namespace tiercel {

// Where a block that enters the index stands.
struct BlockOrigin {
  // Stands for the whole prefix up to the block's end: a block that comes back after its eviction has the same again.
  std::uint64_t content = 0;
  // The block before it, which is in the index; kNoBlock for the first of a sequence.
  BlockId parent = kNoBlock;
  // The first block that its lease adds behind what it found: between two turns of a conversation, or at its start.
  bool starts_segment = false;
  // Full blocks of the lease's prompt behind what was found, this one among them. 0: a block that ends in generated
  // tokens.
  std::uint32_t segment_blocks = 0;
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `block` enters the index; the first call for it. It is held, so not evictable.
  virtual void on_insert(BlockId block, const BlockOrigin& origin) = 0;
  // `block` was used: a lease that had found or committed it has ended, or its leading tokens were copied. Each lease
  // reports its blocks once, when it ends, the deepest first, so of two blocks that nobody holds a parent was used
  // later than its children. The block may still be held by others. The first use after on_insert() is the one by the
  // lease that inserted it, so not a hit, unless another lease that found it ends earlier.
  virtual void on_use(BlockId block) = 0;
  // `block` became an unreferenced leaf, or stopped being one because it was referenced again or gained a child.
  virtual void on_evictable(BlockId block) = 0;
  virtual void on_held(BlockId block) = 0;
  // `block` left the index; its id may come back for other content. It is not evictable any more.
  virtual void on_remove(BlockId block) = 0;

  // The evictable block that is worth least now, or kNoBlock when none is evictable. Does not remove it. An answer that
  // is not evictable is not followed: the cache then takes any block that is.
  virtual BlockId victim() = 0;

  virtual std::size_t metadata_bytes() const = 0;
};

// Makes the policy of a cache of `capacity_blocks` blocks, whose ids are 0 .. capacity_blocks - 1.
using EvictionPolicyFactory = std::function<std::unique_ptr<EvictionPolicy>(std::size_t capacity_blocks)>;

// Least recently used first. 16 bytes per block. O(1) per call, except that a block which becomes evictable by losing
// its last child is put in its place by walking from both ends.
EvictionPolicyFactory lru();
// Least often used first, the least recently used of these; counts are halved as time goes by, so that yesterday's
// favourites leave. 24 bytes per block. Cost as lru().
EvictionPolicyFactory lfu();
// Prefix hit density: the block whose chance of a hit per time held is lowest, as learnt from the blocks of its class
// (how often used, which turn of a conversation, how much was added at once). docs/eviction.md describes it. 55 bytes
// per block and 0.2 MiB. O(classes) per eviction.
EvictionPolicyFactory adaptive();

}  // namespace tiercel
