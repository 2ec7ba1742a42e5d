#include "kv/eviction_order.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace tiercel {

EvictionOrder::EvictionOrder(std::size_t capacity_blocks, std::unique_ptr<EvictionPolicy> policy)
    : policy_(std::move(policy)),
      standings_(capacity_blocks),
      expectations_(capacity_blocks),
      links_(capacity_blocks + kRings) {
  for (std::size_t ring = 0; ring < kRings; ++ring) {
    const BlockId end = ring_end(static_cast<Place>(ring));
    links_[end] = {end, end};
  }
}

void EvictionOrder::on_insert(BlockId block, const BlockOrigin& origin) {
  assert(standings_[block].place == Place::Policy && expectations_[block] == 0);
  standings_[block].priority = RetentionPriority::Low;
  policy_->on_insert(block, origin);
}

void EvictionOrder::on_use(BlockId block, RetentionPriority priority) {
  policy_->on_use(block);
  Standing& standing = standings_[block];
  const Place place = standing.place;
  if (place != Place::Policy) unlink(block);
  const bool raised = priority > standing.priority;
  if (raised) standing.priority = priority;
  if (place == Place::Policy) return;
  // Used while it was nobody's and set aside: the newest of its ring, or of another place.
  raised ? place_evictable(block) : append(place, block);
}

void EvictionOrder::on_evictable(BlockId block) {
  assert(!standings_[block].evictable);
  standings_[block].evictable = true;
  place_evictable(block);
}

void EvictionOrder::place_evictable(BlockId block) {
  if (standings_[block].priority == RetentionPriority::Low) {
    append(Place::Low, block);
  } else {
    policy_->on_evictable(block);
  }
}

void EvictionOrder::on_held(BlockId block) {
  assert(standings_[block].evictable);
  standings_[block].evictable = false;
  if (standings_[block].place == Place::Policy) {
    policy_->on_held(block);
  } else {
    unlink(block);
  }
}

void EvictionOrder::on_remove(BlockId block) {
  standings_[block].evictable = false;
  if (standings_[block].place != Place::Policy) unlink(block);
  policy_->on_remove(block);
}

bool EvictionOrder::add_expectation(BlockId block) {
  if (expectations_[block] == UINT16_MAX) return false;
  ++expectations_[block];
  return true;
}

void EvictionOrder::drop_expectation(BlockId block) {
  assert(expectations_[block] > 0);
  if (--expectations_[block] > 0 || standings_[block].place != Place::Expected) return;
  unlink(block);
  place_evictable(block);
}

BlockId EvictionOrder::victim() {
  if (const BlockId low = oldest_unexpected(Place::Low); low != kNoBlock) return low;
  if (const BlockId named = victim_of_policy(); named != kNoBlock) return named;
  const BlockId high = oldest_unexpected(Place::High);
  return high != kNoBlock ? high : oldest(Place::Expected);
}

BlockId EvictionOrder::victim_of_policy() {
  for (BlockId named = policy_->victim(); named != kNoBlock; named = policy_->victim()) {
    // A policy of the user's may name anything.
    const bool known =
        named < standings_.size() && standings_[named].evictable && standings_[named].place == Place::Policy;
    const bool expected = known && expectations_[named] > 0;
    if (!expected && !(known && standings_[named].priority == RetentionPriority::High)) return named;
    policy_->on_held(named);
    append(expected ? Place::Expected : Place::High, named);
  }
  return kNoBlock;
}

std::size_t EvictionOrder::next_of_policy(std::span<BlockId> next) {
  std::size_t found = 0;
  for (; found < next.size(); ++found) {
    const BlockId named = victim_of_policy();
    // A policy of the user's may name anything.
    if (named >= standings_.size() || !standings_[named].evictable || standings_[named].place != Place::Policy) break;
    policy_->on_held(named);  // so that it names another one
    next[found] = named;
  }
  for (std::size_t i = found; i-- > 0;) policy_->on_evictable(next[i]);
  return found;
}

BlockId EvictionOrder::oldest_unexpected(Place place) {
  BlockId block = oldest(place);
  for (; block != kNoBlock && expectations_[block] > 0; block = oldest(place)) {
    unlink(block);
    append(Place::Expected, block);
  }
  return block;
}

BlockId EvictionOrder::oldest(Place place) const {
  const BlockId end = ring_end(place);
  return links_[end].newer == end ? kNoBlock : links_[end].newer;
}

void EvictionOrder::append(Place place, BlockId block) {
  const BlockId end = ring_end(place);
  const BlockId newest = links_[end].older;
  links_[block] = {.older = newest, .newer = end};
  links_[newest].newer = links_[end].older = block;
  standings_[block].place = place;
}

void EvictionOrder::unlink(BlockId block) {
  const Links gone = std::exchange(links_[block], Links{});
  links_[gone.older].newer = gone.newer;
  links_[gone.newer].older = gone.older;
  standings_[block].place = Place::Policy;
}

std::size_t EvictionOrder::metadata_bytes() const {
  return policy_->metadata_bytes() + standings_.capacity() * sizeof(Standing) +
         expectations_.capacity() * sizeof(std::uint16_t) + links_.capacity() * sizeof(Links);
}

}  // namespace tiercel
