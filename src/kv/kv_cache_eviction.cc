// How room is made: references, eviction, expiry.
#include <algorithm>
#include <array>
#include <cassert>
#include <new>

#include "kv/kv_cache_state.h"

namespace tiercel {
namespace {

// Values of expires_ms_ beside a time.
constexpr std::uint64_t kNever = 0;
constexpr std::uint64_t kUnused = 1;  // inserted, not yet used by anyone

// Leaves are written, with what is before them, when they are among so many that go next, at most this part of all
// blocks; and no more than this part is free.
constexpr std::size_t kLooksAhead = 32;
constexpr std::size_t kLooksAheadPart = 8;

}  // namespace

void KvCacheState::hold(BlockId block) {
  if (is_evictable(block)) {
    order_.on_held(block);
    if (tenants_) tenants_->on_not_evictable(block);
  }
  if (pool_.references(block) == 0 && tenants_) tenants_->on_held(block);
  pool_.add_reference(block);
}

void KvCacheState::drop(BlockId block) {
  if (!pool_.drop_reference(block)) return;
  if (tenants_) tenants_->on_dropped(block);
  if (!index_.contains(block)) {
    give_back(block);
  } else if (is_evictable(block)) {
    make_evictable(block);
  }
}

void KvCacheState::use(BlockId block, const Retention& retention, std::uint64_t now) {
  order_.on_use(block, retention.priority);
  if (expires_ms_.empty() || expires_ms_[block] == kNever) return;
  expires_ms_[block] =
      retention.ttl_ms == 0 ? kNever : std::max(expires_ms_[block], end_of_life(now, retention.ttl_ms));
}

void KvCacheState::mark_unused(BlockId block) { expires_ms_[block] = kUnused; }

void KvCacheState::make_evictable(BlockId block) {
  order_.on_evictable(block);
  if (tenants_) tenants_->on_evictable(block);
}

void KvCacheState::give_back(BlockId block) {
  if (tenants_) tenants_->on_freed(block);
  pool_.give_back(block);
}

bool KvCacheState::is_evictable(BlockId block) const {
  return block < pool_.capacity_blocks() && index_.contains(block) && pool_.references(block) == 0 &&
         (index_.is_companion(block) || index_.is_leaf(block));
}

bool KvCacheState::is_expired(BlockId block, std::uint64_t now) const {
  // What is held is in use.
  return !expires_ms_.empty() && expires_ms_[block] > kUnused && expires_ms_[block] <= now &&
         pool_.references(block) == 0;
}

BlockId KvCacheState::take_promised_block(TenantId tenant) {
  sweep_expired();
  if (tenants_ && tenants_->is_at_quota(tenant)) {
    // Its promises are within the quota, so one of its blocks is cached, unless the quota was lowered meanwhile.
    if (const BlockId own = tenants_->next_victim(tenant); own != kNoBlock) {
      evict(own);
      ++evicted_blocks_;
    }
  }
  if (pool_.free_blocks() == 0) evict_one();
  const BlockId block = pool_.take_promised();
  if (tenants_) tenants_->on_taken(tenant, block);
  return block;
}

void KvCacheState::evict_one() {
  BlockId victim = order_.victim();
  if (!is_evictable(victim)) {
    // A policy of the user's that has lost count may evict badly, but must not break a promise.
    for (victim = 0; !is_evictable(victim); ++victim) assert(victim < pool_.capacity_blocks());
  }
  evict(victim);
  ++evicted_blocks_;
}

void KvCacheState::evict(BlockId block) {
  assert(is_evictable(block));
  if (index_.is_companion(block)) {
    order_.forget_expectations(block);
    index_.detach(block);
    order_.on_remove(block);
    if (tenants_) tenants_->on_not_evictable(block);
    return give_back(block);
  }
  const NodeId parent = index_.parent(block);
  forget_leaf(block);
  if (!PrefixIndex::is_root(parent) && is_evictable(parent)) make_evictable(parent);
}

void KvCacheState::forget_leaf(BlockId leaf) {
  if (const auto pin = pins_.find(leaf); pin != pins_.end()) end_pin(pin);
  retreat_expectations(leaf);
  tails_.forget(leaf);
  if (tiers_ && std::exchange(loaded_from_[leaf], kNoTier) != kNoTier) ++wasted_blocks_;
  for (std::size_t group = groups_.size(); group-- > 0;) {
    const BlockId block = group == 0 ? leaf : index_.companion(leaf, group);
    if (block == kNoBlock) continue;
    group == 0 ? static_cast<void>(index_.remove_leaf(block)) : index_.detach(block);
    order_.on_remove(block);
    if (tenants_) tenants_->on_not_evictable(block);
    if (pool_.references(block) == 0) give_back(block);  // else its holders do
  }
}

bool KvCacheState::path_to_keep(BlockId leaf, std::vector<BlockId>& path) const {
  path.clear();
  for (NodeId node = leaf; !PrefixIndex::is_root(node); node = index_.parent(node)) path.push_back(node);
  std::ranges::reverse(path);
  const auto passing = std::ranges::find_if(path, [&](BlockId block) {
    const bool expires = !expires_ms_.empty() && expires_ms_[block] > kUnused && expires_ms_[block] != kNever;
    // What nobody has used yet counts as of Low priority; its request may be running still.
    return expires || (order_.priority(block) == RetentionPriority::Low && !writes_->is_lasting(block));
  });
  path.erase(passing, path.end());
  return !path.empty();
}

void KvCacheState::offer_what_leaves() try {
  const std::size_t part = std::max<std::size_t>(1, pool_.capacity_blocks() / kLooksAheadPart);
  if (!tiers_ || !writes_->looks_ahead() || pool_.free_blocks() > part) return;
  std::array<BlockId, kLooksAhead> leaving;
  const std::size_t leaves = order_.next_of_policy(std::span(leaving).first(std::min(part, kLooksAhead)));
  std::vector<BlockId> path;
  for (const BlockId leaf : std::span(leaving).first(leaves)) {
    if (writes_->is_offered(leaf) || !path_to_keep(leaf, path)) continue;
    // What is of value before a leaf that is not may go in the same moment.
    while (!path.empty() && !writes_->is_valued(path.back())) path.pop_back();
    if (path.empty() || writes_->is_offered(path.back())) continue;
    writes_->on_offered(path);
    tiers_->offer(path);
  }
} catch (const std::bad_alloc&) {
  // Not written, then.
}

void KvCacheState::prepare_expiry(const Retention& retention) {
  if (retention.ttl_ms > 0 && expires_ms_.empty()) expires_ms_.assign(pool_.capacity_blocks(), kNever);
}

void KvCacheState::sweep_expired() {
  constexpr int kBlocksPerSweep = 4;
  if (expires_ms_.empty()) return;
  const std::uint64_t now = seams_.now_ms();
  for (int i = 0; i < kBlocksPerSweep; ++i) {
    sweep_hand_ = sweep_hand_ + 1 < pool_.capacity_blocks() ? sweep_hand_ + 1 : 0;
    if (pool_.is_free(sweep_hand_) || !is_expired(sweep_hand_, now) || !is_evictable(sweep_hand_)) continue;
    evict(sweep_hand_);
    ++expired_blocks_;
  }
}

}  // namespace tiercel
