#include "kv/prefix_frontier.h"

#include <algorithm>
#include <cassert>

namespace tiercel {

void PrefixFrontierTable::add(PrefixFrontier& frontier) {
  assert(frontier.parent != kNoNode);
  PrefixFrontier*& first = buckets_[frontier.key.low % kBuckets];
  frontier.previous = nullptr;
  frontier.next = first;
  if (first != nullptr) first->previous = &frontier;
  first = &frontier;
}

void PrefixFrontierTable::remove(PrefixFrontier& frontier) {
  if (frontier.parent == kNoNode) return;
  if (frontier.next != nullptr) frontier.next->previous = frontier.previous;
  (frontier.previous != nullptr ? frontier.previous->next : buckets_[frontier.key.low % kBuckets]) = frontier.next;
  frontier.parent = kNoNode;
}

PrefixFrontier* PrefixFrontierTable::find(const ContentKey& key, NodeId parent, std::span<const TokenId> tokens,
                                          PrefixFrontier* after) const {
  PrefixFrontier* frontier = after != nullptr ? after->next : buckets_[key.low % kBuckets];
  while (frontier != nullptr &&
         !(frontier->key == key && frontier->parent == parent && std::ranges::equal(frontier->tokens, tokens))) {
    frontier = frontier->next;
  }
  return frontier;
}

}  // namespace tiercel
