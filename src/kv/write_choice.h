// Which blocks may be kept in tiers, which are worth writing there, and which have been offered (WritePolicy).
//
// A block is of value when its user says so, when a request finds it in the cache, or computes it again after it was
// evicted. What was computed before is remembered by a part of its key, in a table of fixed size, as a doorkeeper does
// (Einziger, Friedman and Manes, TinyLFU, 2017): it may be wrong about one block in a million, which is then written
// too early. Under SeenTwice what is of value is worth it when its request ends; under WhenEvicted when it is among the
// next to go, each time anew: the tier may have given it up meanwhile.
//
// Not synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/content_key.h"
#include "tiercel/options.h"
#include "tiercel/types.h"

namespace tiercel {

class WriteChoice {
 public:
  // May throw std::bad_alloc.
  WriteChoice(WritePolicy policy, std::size_t capacity_blocks);

  // `block` has this content from now on: it was computed, or a tier gave it.
  void on_computed(BlockId block, const ContentKey& key, const Retention& retention);
  void on_loaded(BlockId block, const Retention& retention);
  // A request found it.
  void on_found(BlockId block);
  // How many of the leading blocks of a path are to be offered: all that are worth it, where one of them was not
  // offered yet, else none. They count as offered then.
  std::size_t take(std::span<const BlockId> path);
  // Whether blocks are offered that are next to be evicted.
  bool looks_ahead() const { return policy_ == WritePolicy::WhenEvicted; }
  // Whether one of these is worth it.
  bool is_valued(BlockId block) const { return (marks_[block] & (kHigh | kSeenTwice)) != 0; }
  bool is_offered(BlockId block) const { return (marks_[block] & kOffered) != 0; }
  void on_offered(std::span<const BlockId> path) {
    for (const BlockId block : path) marks_[block] |= kOffered;
  }

  // What will not come back, or must not after its time, has no use for a tier.
  static bool is_lasting(const Retention& retention) {
    return retention.ttl_ms == 0 && retention.priority != RetentionPriority::Low;
  }
  // Whether the request that brought the block has such a retention.
  bool is_lasting(BlockId block) const { return (marks_[block] & kLasting) != 0; }

  std::size_t metadata_bytes() const { return marks_.capacity() + seen_.capacity() * sizeof(seen_[0]); }

 private:
  static constexpr std::uint8_t kHigh = 1, kSeenTwice = 2, kOffered = 4, kLasting = 8;
  // So many blocks are remembered for each of the cache: most of what a disk may have.
  static constexpr std::size_t kRemembered = 16;

  // Whether it is to be offered when its request ends.
  bool is_due(BlockId block) const {
    const unsigned wanted = policy_ == WritePolicy::SeenTwice ? kHigh | kSeenTwice : kHigh;
    return policy_ == WritePolicy::EveryBlock || (marks_[block] & wanted) != 0;
  }
  // Whether it was noted before; it is now.
  bool note(const ContentKey& key);

  const WritePolicy policy_;
  std::vector<std::uint8_t> marks_;  // by block
  std::vector<std::uint32_t> seen_;  // parts of keys, by another part; 0: none
};

}  // namespace tiercel
