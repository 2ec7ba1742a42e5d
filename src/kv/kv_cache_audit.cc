// The recount of everything, for tests.
#include <fmt/format.h>

#include "kv/kv_cache_state.h"

namespace tiercel {

std::vector<std::uint32_t> KvCacheState::references() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> counts(pool_.capacity_blocks());
  for (BlockId block = 0; block < counts.size(); ++block) {
    if (!pool_.is_free(block)) counts[block] = pool_.references(block);
  }
  return counts;
}

std::size_t KvCacheState::roots() const {
  const std::lock_guard lock(mutex_);
  return index_.roots();
}

std::size_t KvCacheState::tenant_blocks(std::string_view salt) const {
  const std::lock_guard lock(mutex_);
  return tenants_ ? tenants_->taken_blocks(salt) : 0;
}

std::string KvCacheState::audit() {
  const std::lock_guard lock(mutex_);
  std::size_t free = 0, leased = 0, cached = 0, indexed = 0, evictable = 0, pinned = 0;
  for (BlockId block = 0; block < pool_.capacity_blocks(); ++block) {
    const bool findable = index_.contains(block);
    if (pool_.is_free(block)) {
      ++free;
      if (findable) return fmt::format("free block {} can be found", block);
      continue;
    }
    const bool held = pool_.references(block) > 0;
    ++(held ? leased : cached);
    pinned += !pin_counts_.empty() && pin_counts_[block] > 0;
    if (!held && !findable) return fmt::format("block {} is lost: not free, not held, not findable", block);
    evictable += is_evictable(block);
    if (!findable) continue;
    const NodeId parent = index_.parent(block);
    if (index_.is_companion(block)) {
      if (!index_.contains(parent))
        return fmt::format("block {} goes with block {}, which left the index", block, parent);
      if (order_.expectations(block) != order_.expectations(parent)) {
        return fmt::format("{} prompts expect block {}, {} the one it goes with", order_.expectations(block), block,
                           order_.expectations(parent));
      }
    } else {
      ++indexed;
      if (PrefixIndex::is_root(parent)) continue;
      if (!index_.contains(parent))
        return fmt::format("block {} follows block {}, which left the index", block, parent);
      if (index_.is_leaf(parent)) return fmt::format("block {} is not among the children of {}", block, parent);
    }
    if (held && pool_.references(parent) == 0) {
      return fmt::format("block {} is held, the one before it, {}, is not", block, parent);
    }
  }
  if (free != pool_.free_blocks() || leased != pool_.leased_blocks() || cached != pool_.cached_blocks()) {
    return fmt::format("counted {} free, {} leased, {} cached; the pool says {}, {}, {}", free, leased, cached,
                       pool_.free_blocks(), pool_.leased_blocks(), pool_.cached_blocks());
  }
  if (indexed != index_.size()) return fmt::format("counted {} indexed blocks, not {}", indexed, index_.size());
  if (pinned != pinned_blocks_) return fmt::format("counted {} pinned blocks, not {}", pinned, pinned_blocks_);
  if (pool_.promised_blocks() > free + cached) {
    return fmt::format("{} blocks are promised, {} free and {} cached", pool_.promised_blocks(), free, cached);
  }
  const BlockId victim = order_.victim();
  if (evictable == 0 ? victim != kNoBlock : !is_evictable(victim)) {
    return fmt::format("{} blocks are evictable, the next to go would be {}", evictable, victim);
  }
  return {};
}

}  // namespace tiercel
