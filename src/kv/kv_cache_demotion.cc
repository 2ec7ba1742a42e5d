// How the lease of a sequence ends that gives its room to another and will go on later: what it computed stays held
// until a tier has it, where that is worth it.
#include <algorithm>
#include <cassert>
#include <new>
#include <utility>

#include "kv/kv_cache_state.h"

namespace tiercel {

std::size_t KvCacheState::demote(Lease lease) try {
  std::unique_ptr<LeaseState> ending = std::move(lease.state_);  // releases everything where this returns early
  if (!tiers_ || !ending || ending->retention.ttl_ms > 0) return 0;
  end_demotions();
  const std::lock_guard lock(mutex_);
  std::vector<BlockId>& blocks = ending->blocks;
  const auto known = std::ranges::find_if(blocks, [&](BlockId block) { return !index_.contains(block); });
  const auto shared = static_cast<std::size_t>(known - blocks.begin());
  demotions_.reserve(demotions_.size() + 1);
  TierDemotion write = tiers_->demote(std::span(blocks).first(shared));
  if (write.path.expired()) return 0;

  // Nothing fails any more. It computes nothing, grows no more, and what nobody can find is of no use to it.
  computing_.remove(ending->frontier);
  for (; blocks.size() > shared; blocks.pop_back()) drop(blocks.back());
  const std::size_t promised = std::exchange(ending->promised_blocks, 0);
  pool_.return_promises(promised);
  if (tenants_) tenants_->on_promise_returned(ending->tenant, promised);
  demoting_blocks_ += shared;
  demotions_.push_back({.lease = std::move(ending), .write = std::move(write)});
  return shared;
} catch (const std::bad_alloc&) {
  return 0;
}

void KvCacheState::end_demotions(bool all) {
  const auto is_over = [&](const Demotion& demotion) {
    return all || demotion.write.path.expired() || seams_.tier_now_s() >= demotion.write.until_s;
  };
  for (;;) {
    std::unique_ptr<LeaseState> ended;  // which takes the lock as it ends
    const std::lock_guard lock(mutex_);
    const auto over = std::ranges::find_if(demotions_, is_over);
    if (over == demotions_.end()) return;
    ended = std::move(over->lease);
    demoting_blocks_ -= ended->blocks.size();
    demotions_.erase(over);
  }
}

}  // namespace tiercel
