// How a lease goes on and ends: it grows, its full blocks are shared, and everything goes back.
#include <algorithm>
#include <cassert>
#include <mutex>
#include <utility>

#include "kv/kv_cache_state.h"
#include "kv/refusal.h"

namespace tiercel {

LeaseState::~LeaseState() {
  if (cache) cache->release(*this);
}

Status KvCacheState::grow(LeaseState& lease, std::size_t tokens) {
  if (tokens > lease.max_tokens) {
    return refusal(StatusCode::ResourceExhausted, "{} tokens are beyond the max_tokens of this lease, {}", tokens,
                   lease.max_tokens);
  }
  const std::size_t wanted = blocks_for(tokens);
  if (wanted <= lease.blocks.size()) return {};
  const std::lock_guard lock(mutex_);
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    std::vector<BlockId>& table = group == 0 ? lease.blocks : lease.windows[group - 1];
    for (; table.size() < wanted; --lease.promised_blocks) table.push_back(take_promised_block(lease.tenant));
  }
  return {};
}

void KvCacheState::commit(LeaseState& lease, std::span<const TokenId> tokens, bool share, bool copyable) {
  assert(blocks_for(lease.committed_tokens + tokens.size()) <= lease.blocks.size());
  // The lock is taken only when a block becomes full, not for every token of decoding.
  std::unique_lock lock(mutex_, std::defer_lock);
  if (!share && !tokens.empty() && lease.shares) {
    lock.lock();
    lease.shares = false;
    computing_.remove(lease.frontier);
  }
  while (lease.shares && !tokens.empty()) {
    const auto taken = tokens.first(std::min(tokens.size(), layout_.block_tokens - lease.open_tokens.size()));
    lease.open_tokens.insert(lease.open_tokens.end(), taken.begin(), taken.end());
    lease.open_copyable = lease.open_copyable && copyable;
    lease.committed_tokens += taken.size();
    tokens = tokens.subspan(taken.size());
    if (lease.open_tokens.size() < layout_.block_tokens) break;
    if (!lock.owns_lock()) lock.lock();
    share_full_block(lease, lease.committed_tokens / layout_.block_tokens - 1, lease.load_tier);
    lease.open_tokens.clear();
    lease.open_copyable = true;
  }
  lease.committed_tokens += tokens.size();
  if (groups_.size() > 1) {
    if (!lock.owns_lock()) lock.lock();
    give_up_out_of_reach(lease);
  }
}

void KvCacheState::share_full_block(LeaseState& lease, std::size_t position, TierId tier) {
  const NodeId parent = position == 0 ? lease.root : lease.blocks[position - 1];
  const bool was_announced =
      lease.frontier.parent != kNoNode && std::ranges::equal(lease.frontier.tokens, lease.open_tokens);
  const ContentKey announced_key = lease.frontier.key;
  computing_.remove(lease.frontier);
  const bool may_be_forgotten = lease.load_tier != kNoTier && lease.forgotten != forgotten_;
  if (lease.epoch != index_.epoch(lease.root) || (position > 0 && !index_.contains(parent)) || may_be_forgotten) {
    lease.shares = false;  // what comes before is forgotten, or this itself in its tier
    return;
  }
  const ContentKey key = was_announced ? announced_key : index_.key_after(parent, lease.open_tokens);
  BlockId& own = lease.blocks[position];
  const BlockId equal = index_.find_child(parent, key, lease.open_tokens);
  BlockOrigin origin{.content = key.low,
                     .parent = position == 0 ? kNoBlock : parent,
                     .starts_segment = !lease.added_blocks,
                     .segment_blocks = static_cast<std::uint32_t>(
                         position < lease.prompt_blocks ? lease.prompt_blocks - lease.matched_blocks : 0)};
  if (equal == kNoBlock) {
    if (position > 0 && index_.is_leaf(parent)) assert(pool_.references(parent) > 0);
    index_.insert(parent, key, lease.open_tokens, own, lease.open_copyable);
    order_.on_insert(own, origin);
    if (!expires_ms_.empty()) mark_unused(own);
    lease.added_blocks = true;
    if (tier != kNoTier) {
      loaded_from_[own] = tier;
      ++loaded_blocks_;
      writes_->on_loaded(own, lease.retention);
    } else if (writes_) {
      writes_->on_computed(own, key, lease.retention);
    }
  } else {
    hold(equal);
    drop(std::exchange(own, equal));
  }
  if (groups_.size() > 1) share_companions(lease, position, origin);
  arrive(key, parent, lease.open_tokens, own);
  if (groups_.size() > 1) notice_return(lease, position);
  if (was_announced) {
    announce_next_block(lease);
  } else {
    lease.announced.clear();  // its runner went another way
  }
}

std::size_t KvCacheState::extend(LeaseState& lease) {
  if (!lease.load) return SIZE_MAX;
  std::shared_ptr<TierLoad> ended;  // not under the lock: its leases end with it
  {
    const std::lock_guard lock(mutex_);
    TierLoad::Tail& tail = lease.load->tail;
    const std::size_t begun = blocks_for(lease.committed_tokens);
    if (lease.shares && lease.forgotten == forgotten_ && begun < tail.end) {
      if (begun < tail.first || lease.committed_tokens % layout_.block_tokens != 0) {
        const std::size_t end = tiers_->end_of_computing(*lease.load, begun);
        tail.computed = end;
        return std::max(lease.committed_tokens, end * layout_.block_tokens);
      }
      join_loaded(lease);
    }
    ended = std::move(lease.load);
    ended->wanted = false;
  }
  return SIZE_MAX;
}

void KvCacheState::join_loaded(LeaseState& lease) {
  const std::size_t block_tokens = layout_.block_tokens;
  const TierLoad& load = *lease.load;
  for (std::size_t i = lease.committed_tokens / block_tokens; i < load.tail.end && lease.shares; ++i) {
    const TierLoad::Tail::Block& loaded = load.tail.blocks[load.tail.end - 1 - i];
    hold(loaded.block);
    if (i < lease.blocks.size()) {
      drop(std::exchange(lease.blocks[i], loaded.block));
    } else {
      lease.blocks.push_back(loaded.block);
      --lease.promised_blocks;
      pool_.return_promises(1);
      if (tenants_) tenants_->on_promise_returned(lease.tenant, 1);
    }
    const auto tokens = std::span(load.tokens).subspan(i * block_tokens, block_tokens);
    lease.open_tokens.assign(tokens.begin(), tokens.end());
    lease.open_copyable = loaded.copyable;
    lease.committed_tokens += block_tokens;
    lease.matched_tokens += block_tokens;
    matched_tokens_ += block_tokens;
    share_full_block(lease, i, load.tail.tier);
    note_use_of_loaded(lease, lease.blocks[i], block_tokens);
    lease.open_tokens.clear();
    lease.open_copyable = true;
  }
}

void KvCacheState::share_companions(LeaseState& lease, std::size_t position, const BlockOrigin& origin) {
  const BlockId owner = lease.blocks[position];
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    BlockId& own = lease.windows[group - 1][position];
    const BlockId equal = index_.companion(owner, group);
    if (equal == kNoBlock) {
      index_.attach(owner, group, own);
      BlockOrigin with_group = origin;
      with_group.content ^= group;
      order_.on_insert(own, with_group);
      for (int i = 0; i < order_.expectations(owner); ++i) order_.add_expectation(own);
      if (!expires_ms_.empty()) mark_unused(own);
    } else if (equal != own) {
      hold(equal);
      drop(std::exchange(own, equal));
    }
  }
}

void KvCacheState::give_up_out_of_reach(LeaseState& lease) {
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    std::vector<BlockId>& window = lease.windows[group - 1];
    for (std::size_t i = first_block_in_reach(group, lease.committed_tokens); i-- > 0;) {
      if (window[i] == kNoBlock) break;  // and all before it
      drop(std::exchange(window[i], kNoBlock));
    }
  }
}

void KvCacheState::announce_next_block(LeaseState& lease) {
  const std::size_t position = lease.committed_tokens / layout_.block_tokens;
  const std::size_t first = (position - lease.first_announced) * layout_.block_tokens;
  if (!lease.shares || first + layout_.block_tokens > lease.announced.size()) return;
  if (lease.load_tier != kNoTier) return;  // who waits for a load has one of its own, and knows for how long
  lease.frontier.parent = position == 0 ? lease.root : lease.blocks[position - 1];
  lease.frontier.tokens = std::span(lease.announced).subspan(first, layout_.block_tokens);
  lease.frontier.key = index_.key_after(lease.frontier.parent, lease.frontier.tokens);
  computing_.add(lease.frontier);
}

void KvCacheState::release(LeaseState& lease) {
  std::unique_lock lock(mutex_);
  computing_.remove(lease.frontier);
  if (lease.load) lease.load->wanted = false;
  if (lease.load_tier == kNoTier) remember_tail(lease);
  if (lease.trace) {
    for (std::size_t i = lease.prompt_blocks; i < lease.blocks.size() && index_.contains(lease.blocks[i]); ++i) {
      lease.trace->output_ids.push_back(trace_id(index_.key_of(lease.blocks[i])));
    }
  }
  if (tiers_ && lease.load_tier == kNoTier && WriteChoice::is_lasting(lease.retention)) {
    // Without what was invalidated meanwhile.
    const auto end = std::ranges::find_if(lease.blocks, [&](BlockId block) { return !index_.contains(block); });
    const std::span<const BlockId> shared(lease.blocks.begin(), end);
    if (const std::size_t blocks = writes_->take(shared); blocks > 0) {
      tiers_->offer(shared.first(blocks));
    } else if (!lease.matched_tokens_from.empty()) {
      tiers_->offer(shared.first(std::min(lease.matched_blocks, shared.size())), lease.matched_tokens_from.size() - 1);
    }
  }
  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  // Deepest first: leaves become evictable before their parents, and count as used before them.
  while (!lease.blocks.empty()) {
    for (std::size_t group = groups_.size(); group-- > 0;) {
      std::vector<BlockId>& table = group == 0 ? lease.blocks : lease.windows[group - 1];
      const BlockId block = table.back();
      table.pop_back();
      if (block == kNoBlock) continue;
      // A load that found a block did so for a request, which will use it.
      const bool used = lease.load_tier == kNoTier || lease.blocks.size() >= lease.matched_blocks;
      if (used && index_.contains(block)) use(block, lease.retention, now);
      drop(block);
    }
  }
  pool_.return_promises(lease.promised_blocks);
  offer_what_leaves();
  if (tenants_) {
    tenants_->on_promise_returned(lease.tenant, lease.promised_blocks);
    tenants_->leave(lease.tenant);
  }
  if (lease.root != kNoNode) index_.drop_root(lease.root);
  lock.unlock();
  if (lease.trace) end_trace(lease);
}

void KvCacheState::end_trace(const LeaseState& lease) const {
  const LeaseState::TraceNote& note = *lease.trace;
  recorder_->record({.timestamp_ms = note.timestamp_ms,
                     .input_length = note.input_length,
                     .output_length = lease.committed_tokens - std::min(lease.committed_tokens, note.input_length),
                     .prompt_ids = note.prompt_ids,
                     .output_ids = note.output_ids});
}

void KvCacheState::note_use_of_loaded(LeaseState& lease, BlockId block, std::size_t tokens) {
  writes_->on_found(block);
  const TierId tier = std::exchange(loaded_from_[block], kNoTier);
  if (tier == kNoTier) return;
  ++useful_blocks_;
  if (lease.matched_tokens_from.size() <= tier) lease.matched_tokens_from.resize(tier + std::size_t{1});
  lease.matched_tokens_from[tier] += tokens;
  tier_hits_[tier] += tokens;
}

}  // namespace tiercel
