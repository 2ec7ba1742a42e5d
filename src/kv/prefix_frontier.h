// Where prompts wait to go on: the next block that a prompt needs and that is not in the index yet.
//
// A lease has one for the block it is going to compute and share next, a waiting prompt one for the block that it would
// need next. Two with equal block are after the same thing; so a prompt sees that another computes its prefix, and
// learns when a block of it arrives.
//
// Frontiers are linked into the table, which allocates nothing after construction. Not synchronised: the owner locks.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kv/content_key.h"
#include "kv/prefix_index.h"

namespace tiercel {

struct PrefixFrontier {
  ContentKey key;
  NodeId parent = kNoNode;          // kNoNode: in no table
  std::span<const TokenId> tokens;  // of the block; owned by whoever waits for it
  void* owner = nullptr;            // what the table's user makes of it

  PrefixFrontier* next = nullptr;
  PrefixFrontier* previous = nullptr;
};

class PrefixFrontierTable {
 public:
  // `frontier` must stay where it is until it is removed.
  void add(PrefixFrontier& frontier);
  // No-op where it is in no table.
  void remove(PrefixFrontier& frontier);
  // Any frontier of this block, behind `after` where given; null at the end. Keys alone do not decide.
  PrefixFrontier* find(const ContentKey& key, NodeId parent, std::span<const TokenId> tokens,
                       PrefixFrontier* after = nullptr) const;

 private:
  static constexpr std::size_t kBuckets = 1024;
  std::array<PrefixFrontier*, kBuckets> buckets_{};
};

}  // namespace tiercel
