// Which cached block goes when a new one needs its place: a pure decision over block ids.
//
// The prefix index decides what may go (leaves of the prefix tree that no lease holds) and tells the policy; the policy
// only orders them. It does no I/O, holds no block and never sees a token. Calls come one at a time, under the cache's
// lock, so an implementation needs no locking of its own and must not call back into the cache.
#pragma once

#include <memory>

#include "tiercel/types.h"

namespace tiercel {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `block` was used: a lease that had found or committed it has ended, or its leading tokens were copied. Each lease
  // reports its blocks once, when it ends, the deepest first, so of two blocks that nobody holds a parent was used later
  // than its children. The block may still be held by others.
  virtual void on_use(BlockId block) = 0;
  // `block` became an unreferenced leaf, or stopped being one because it was referenced again or gained a child.
  virtual void on_evictable(BlockId block) = 0;
  virtual void on_held(BlockId block) = 0;
  // `block` left the index; its id may come back for other content. It is not evictable any more.
  virtual void on_remove(BlockId block) = 0;

  // The evictable block that is worth least now, or kNoBlock when none is evictable. Does not remove it. An answer that
  // is not evictable is not followed: the cache then takes any block that is.
  virtual BlockId victim() = 0;
};

// Least recently used first. `capacity_blocks` ids, 0 .. capacity_blocks - 1; 16 bytes per block. O(1) per call, except
// that a block which becomes evictable by losing its last child is put in its place by walking from the oldest.
std::unique_ptr<EvictionPolicy> make_lru_policy(std::size_t capacity_blocks);

}  // namespace tiercel
