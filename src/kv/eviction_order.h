// Which evictable block goes next: what the user wishes first, then the policy.
//
// Order: blocks of Low priority; then what the policy names, of Normal priority; then of High priority; then those that
// a waiting prompt expects. The policy is not told of wishes. A block that it names although it is wished for is set
// aside, and comes back to it when the wish ends: so a wish costs nothing until the block would have gone.
//
// "Evictable" is said by the caller, as in EvictionPolicy; on_insert() comes first, on_remove() last. Each block has 11
// bytes here. Not synchronised: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kv/index_allocator.h"
#include "tiercel/eviction_policy.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

class EvictionOrder {
 public:
  EvictionOrder(std::size_t capacity_blocks, std::unique_ptr<EvictionPolicy> policy);

  // As EvictionPolicy. A new block is of Low priority until it is used.
  void on_insert(BlockId block, const BlockOrigin& origin);
  // `priority`: of the lease that used it. The block keeps the strongest.
  void on_use(BlockId block, RetentionPriority priority);
  void on_evictable(BlockId block);
  void on_held(BlockId block);
  void on_remove(BlockId block);
  RetentionPriority priority(BlockId block) const { return standings_[block].priority; }

  // One more, or one less, prompt waits for this block. False where as many wait already as can be counted.
  bool add_expectation(BlockId block);
  void drop_expectation(BlockId block);
  // The block leaves although it is expected.
  void forget_expectations(BlockId block) { expectations_[block] = 0; }
  std::uint16_t expectations(BlockId block) const { return expectations_[block]; }

  // The block to evict next, or kNoBlock where the policy names none and none is set aside.
  BlockId victim();
  // Fills `next` with the first blocks that the policy will name, as things are now, and returns how many there are.
  std::size_t next_of_policy(std::span<BlockId> next);
  std::size_t metadata_bytes() const;

 private:
  // Where an evictable block is; Policy stands for those that are not evictable as well.
  enum class Place : std::uint8_t { Low, High, Expected, Policy };
  static constexpr std::size_t kRings = 3;
  struct Links {
    BlockId older = kNoBlock;
    BlockId newer = kNoBlock;
  };
  struct Standing {
    RetentionPriority priority : 2 = RetentionPriority::Normal;
    Place place : 3 = Place::Policy;
    bool evictable : 1 = false;
  };

  void place_evictable(BlockId block);
  // What the policy names next of those that are wished for by nobody; kNoBlock: none.
  BlockId victim_of_policy();
  BlockId ring_end(Place place) const { return static_cast<BlockId>(standings_.size()) + static_cast<BlockId>(place); }
  // The oldest of a ring that no prompt expects; expected ones are moved to their own ring.
  BlockId oldest_unexpected(Place place);
  BlockId oldest(Place place) const;
  void append(Place place, BlockId block);
  void unlink(BlockId block);

  std::unique_ptr<EvictionPolicy> policy_;
  BlockArray<Standing> standings_;
  BlockArray<std::uint16_t> expectations_;
  BlockArray<Links> links_;  // by block, then the ends of the rings
};

}  // namespace tiercel
