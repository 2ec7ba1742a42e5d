// How the lease of a sequence ends that gives its room to another and will go on later: what that would give, and what
// it computed stays held until a tier has it, where that is worth it.
#include <algorithm>
#include <cassert>
#include <new>
#include <utility>

#include "kv/kv_cache_state.h"

namespace tiercel {

std::size_t KvCacheState::missing_blocks(const ExpectedState* expected, std::size_t max_tokens,
                                         std::span<const Lease* const> ended) {
  end_demotions();
  const std::lock_guard lock(mutex_);
  const auto for_each_ended = [&](const auto& visit) {
    for (const Lease* lease : ended) {
      if (lease->state_) visit(*lease->state_);
    }
    for (const Demotion& demotion : demotions_) visit(*demotion.lease);
  };
  const auto table_of = [](const LeaseState& lease, std::size_t group) -> const std::vector<BlockId>& {
    return group == 0 ? lease.blocks : lease.windows[group - 1];
  };
  // Who shares a block has it at the same position. How many of the ended ones do, and whether `lease` is their first.
  const auto holders_of = [&](BlockId block, std::size_t group, std::size_t position, const LeaseState* lease) {
    std::pair<std::size_t, bool> holders = {0, false};
    for_each_ended([&](const LeaseState& other) {
      const std::vector<BlockId>& table = table_of(other, group);
      if (position >= table.size() || table[position] != block) return;
      if (holders.first++ == 0) holders.second = &other == lease;
    });
    return holders;
  };

  std::size_t given = 0;
  for_each_ended([&](const LeaseState& lease) {
    given += lease.promised_blocks;
    for (std::size_t group = 0; group < groups_.size(); ++group) {
      const std::vector<BlockId>& table = table_of(lease, group);
      for (std::size_t i = 0; i < table.size(); ++i) {
        if (table[i] == kNoBlock) continue;
        const std::uint32_t references = pool_.references(table[i]);
        const auto [holders, is_first] = holders_of(table[i], group, i, &lease);
        given += is_first && holders == references;
      }
    }
  });

  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  const std::size_t total = blocks_for(max_tokens);
  std::size_t needed = groups_.size() * total;
  for (std::size_t i = 0; expected != nullptr && i < expected->blocks.size(); ++i) {
    if (is_expired(expected->blocks[i], now)) break;
    for (std::size_t group = 0; group < groups_.size(); ++group) {
      const BlockId block = group == 0 ? expected->blocks[i] : index_.companion(expected->blocks[i], group);
      if (block == kNoBlock) continue;
      needed -= pool_.references(block) > holders_of(block, group, i, nullptr).first;
    }
  }
  const std::size_t claimable = pool_.claimable_blocks() + given;
  return needed - std::min(needed, claimable);
}

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
