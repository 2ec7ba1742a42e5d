// How a sequence begins: what of it is cached, whether the rest fits, and its lease.
#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>
#include <utility>

#include "kv/kv_cache_state.h"
#include "kv/refusal.h"

namespace tiercel {

std::size_t KvCacheState::blocks_for(std::size_t tokens) const {
  return tokens / layout_.block_tokens + (tokens % layout_.block_tokens != 0 ? 1 : 0);
}

std::size_t KvCacheState::first_block_in_reach(std::size_t group, std::size_t tokens) const {
  const std::size_t window = groups_[group].window_tokens;
  return window == 0 || tokens < window ? 0 : (tokens - (window - 1)) / layout_.block_tokens;
}

std::size_t KvCacheState::valid_blocks(std::span<const BlockId> path, std::uint64_t now) const {
  std::size_t valid = path.size();
  // A group's gap in reach of a boundary rules out that one and all up to where the gap itself is the boundary.
  for (bool lowered = true; lowered;) {
    lowered = false;
    for (std::size_t group = 1; group < groups_.size(); ++group) {
      const std::size_t first = first_block_in_reach(group, valid * layout_.block_tokens);
      for (std::size_t i = first; i < valid; ++i) {
        const BlockId block = index_.companion(path[i], group);
        if (block != kNoBlock && !is_expired(block, now)) continue;
        valid = i;
        lowered = true;
      }
    }
  }
  return valid;
}

void KvCacheState::walk_live(NodeId node, std::span<const TokenId> tokens, std::uint64_t now,
                             std::vector<BlockId>& path) {
  index_.walk(node, tokens, [&](BlockId child) {
    if (is_expired(child, now)) return false;
    path.push_back(child);
    return true;
  });
}

KvCacheState::Match KvCacheState::match(std::span<const TokenId> prompt, const AdmitOptions& options,
                                        std::vector<BlockId>& path) {
  Match found;
  if (!prefix_reuse_) return found;
  const NodeId root = found.node = index_.find_root(options.scope.salt, options.scope.adapter_id);
  if (root == kNoNode) return found;

  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  const std::size_t block_tokens = layout_.block_tokens;
  auto rest = prompt.first(std::min(prompt.size(), options.max_matched_tokens));
  walk_live(root, rest, now, path);
  if (!path.empty()) found.node = path.back();
  rest = rest.subspan(path.size() * block_tokens);
  if (groups_.size() > 1) {
    path.resize(valid_blocks(path, now));
    found.node = path.empty() ? root : path.back();
  } else if (options.partial_blocks && !rest.empty()) {
    found.partial = index_.closest_child(found.node, rest, [&](BlockId child) { return !is_expired(child, now); });
  }
  found.blocks = path.size();
  found.tokens = found.blocks * block_tokens + found.partial.tokens;
  return found;
}

Status KvCacheState::check_claim(std::size_t new_blocks, std::size_t newly_held, TenantId tenant) const {
  // Holding a cached block takes it from those that could be evicted for somebody's promise.
  const std::size_t wanted = new_blocks + newly_held;
  if (tenants_ && !tenants_->may_claim(tenant, wanted)) {
    const std::size_t quota = tenants_->quota_blocks(tenant);
    return refusal(StatusCode::Rejected,
                   "{} more KV blocks would pass the tenant's quota of {}; wait for its other requests, end pins or "
                   "raise its quota",
                   wanted, quota);
  }
  if (wanted > pool_.claimable_blocks()) {
    return refusal(StatusCode::Unavailable, "{} more KV blocks are needed; {} are neither held nor promised", wanted,
                   pool_.claimable_blocks());
  }
  return {};
}

Status KvCacheState::claim_for(const LeaseState& lease, std::size_t new_blocks, TenantId tenant) {
  std::size_t newly_held = 0;
  for (const BlockId block : lease.blocks) newly_held += pool_.references(block) == 0;
  for_each_companion_in_reach(lease.blocks, [&](BlockId block) { newly_held += pool_.references(block) == 0; });
  return check_claim(new_blocks, newly_held, tenant);
}

Result<Lease> KvCacheState::admit_into_free(std::span<const TokenId> prompt, const AdmitOptions& options,
                                            TierId load_tier) {
  {
    const std::lock_guard lock(mutex_);
    // At most so many, and nobody else is counting on them.
    if (pool_.free_blocks() < pool_.promised_blocks() + blocks_for(options.max_tokens)) {
      return Status(StatusCode::Unavailable, {});
    }
  }
  return admit(prompt, options, nullptr, load_tier);
}

Result<Lease> KvCacheState::admit(std::span<const TokenId> prompt, const AdmitOptions& options, ExpectedState* expected,
                                  TierId load_tier) {
  if (options.max_tokens < prompt.size()) {
    return refusal(StatusCode::InvalidArgument, "max_tokens is {}; give at least the prompt's {} tokens",
                   options.max_tokens, prompt.size());
  }
  const std::size_t total_blocks = blocks_for(options.max_tokens);
  const std::size_t groups = groups_.size();
  if (total_blocks > pool_.capacity_blocks() / groups) {
    return refusal(
        StatusCode::ResourceExhausted,
        "a sequence of {} tokens needs {} KV blocks, and the cache has {}; lower max_tokens, or raise capacity_bytes "
        "to {} or more",
        options.max_tokens, total_blocks * groups, pool_.capacity_blocks(), total_blocks * groups * memory_->stride());
  }
  end_demotions();
  try {
    // Not admitted until `cache` is set: leaving before gives nothing back, for nothing was taken.
    auto lease = std::make_unique<LeaseState>();
    lease->blocks.reserve(total_blocks);
    lease->windows.resize(groups - 1);
    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);
    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);
    lease->load_tier = load_tier;
    const bool is_load = load_tier != kNoTier;
    if (tiers_ && !is_load) lease->matched_tokens_from.reserve(tiers_->tiers());
    if (recorder_ && !is_load) begin_trace(*lease, prompt, options);

    const std::lock_guard lock(mutex_);
    expire_pins(seams_.now_ms());
    prepare_expiry(options.retention);
    const Match found = match(prompt, options, lease->blocks);
    const std::size_t new_blocks = groups * (total_blocks - found.blocks);
    const std::size_t block_tokens = layout_.block_tokens;
    const std::size_t shared_end = std::min(prompt.size(), options.max_shared_tokens) / block_tokens * block_tokens;
    const std::size_t matched_end = found.blocks * block_tokens;
    if (prefix_reuse_ && shared_end > matched_end) {
      lease->announced.assign(prompt.begin() + static_cast<std::ptrdiff_t>(matched_end),
                              prompt.begin() + static_cast<std::ptrdiff_t>(shared_end));
    }
    if (tenants_) {
      lease->tenant = tenants_->join(options.scope.salt);
      Status refused;
      if (total_blocks * groups > tenants_->quota_blocks(lease->tenant)) {
        refused =
            refusal(StatusCode::ResourceExhausted,
                    "a sequence of {} tokens needs {} KV blocks, and its tenant may have {}; lower max_tokens, or "
                    "raise the tenant's quota",
                    options.max_tokens, total_blocks * groups, tenants_->quota_blocks(lease->tenant));
      } else {
        refused = claim_for(*lease, new_blocks, lease->tenant);
      }
      if (!refused.ok()) {
        tenants_->leave(lease->tenant);
        return refused;
      }
    } else if (Status refused = claim_for(*lease, new_blocks, kNoTenant); !refused.ok()) {
      return refused;
    }
    if (prefix_reuse_) {
      try {
        lease->root = index_.hold_root(options.scope.salt, options.scope.adapter_id);
      } catch (const std::bad_alloc&) {
        if (tenants_) tenants_->leave(lease->tenant);
        throw;
      }
      lease->epoch = index_.epoch(lease->root);
    }

    // From here on nothing fails, but the copying of a block on a GPU.
    lease->cache = shared_from_this();
    lease->shares = prefix_reuse_;
    lease->forgotten = forgotten_;
    lease->max_tokens = options.max_tokens;
    lease->matched_tokens = lease->committed_tokens = found.tokens;
    lease->retention = options.retention;
    lease->first_announced = lease->matched_blocks = found.blocks;
    lease->prompt_blocks = prompt.size() / block_tokens;
    lease->frontier.owner = lease.get();
    for (const BlockId block : lease->blocks) hold(block);
    for (std::size_t group = 1; group < groups; ++group) {
      std::vector<BlockId>& window = lease->windows[group - 1];
      window.assign(found.blocks, kNoBlock);
      for (std::size_t i = first_block_in_reach(group, found.tokens); i < found.blocks; ++i) {
        window[i] = index_.companion(lease->blocks[i], group);
        hold(window[i]);
      }
    }
    pool_.promise(new_blocks);
    if (tenants_) tenants_->on_promised(lease->tenant, new_blocks);
    lease->promised_blocks = new_blocks;
    if (found.partial.block != kNoBlock) {
      // Used now, so worth keeping. If it is still the one that goes for the copy, the copy is in place: an evicted
      // block keeps its bytes until its next owner writes.
      use(found.partial.block, options.retention, seams_.now_ms());
      const BlockId own = take_promised_block(lease->tenant);
      --lease->promised_blocks;
      lease->blocks.push_back(own);
      TIERCEL_RETURN_IF_ERROR(copy_leading_tokens(found.partial.block, own, found.partial.tokens));
      const auto copied = prompt.subspan(matched_end, found.partial.tokens);
      lease->open_tokens.assign(copied.begin(), copied.end());
    }
    announce_next_block(*lease);
    if (is_load) return Lease(std::move(lease));
    if (tiers_) {
      for (std::size_t i = 0; i < found.blocks; ++i) note_use_of_loaded(*lease, lease->blocks[i], block_tokens);
      if (found.partial.block != kNoBlock) note_use_of_loaded(*lease, found.partial.block, found.partial.tokens);
    }
    ++admitted_;
    prompt_tokens_ += prompt.size();
    matched_tokens_ += found.tokens;
    copied_tokens_ += found.partial.tokens;
    if (tiers_ && expected != nullptr && tiers_->load_from_back(expected->load, blocks_for(found.tokens))) {
      lease->load = std::move(expected->load);
      expected->awaited_tokens = 0;  // nothing is waited for: what is computed was to be
    }
    return Lease(std::move(lease));
  } catch (const std::bad_alloc&) {
    return refusal(StatusCode::Unavailable, "the system gives no memory for a lease");
  }
}

Result<Lease> KvCacheState::fork(const LeaseState& source, std::size_t max_tokens) {
  const std::size_t block_tokens = layout_.block_tokens;
  const std::size_t total_blocks = blocks_for(max_tokens);
  const std::size_t groups = groups_.size();
  if (max_tokens < source.committed_tokens) {
    return refusal(StatusCode::InvalidArgument, "max_tokens is {}; give at least the {} tokens that are forked",
                   max_tokens, source.committed_tokens);
  }
  if (total_blocks > pool_.capacity_blocks() / groups) {
    return refusal(StatusCode::ResourceExhausted,
                   "a sequence of {} tokens needs {} KV blocks, and the cache has {}; lower max_tokens", max_tokens,
                   total_blocks * groups, pool_.capacity_blocks());
  }
  try {
    auto lease = std::make_unique<LeaseState>();
    lease->blocks.reserve(total_blocks);
    lease->windows.resize(groups - 1);
    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);
    lease->open_tokens.reserve(prefix_reuse_ ? block_tokens : 0);
    lease->open_tokens.assign(source.open_tokens.begin(), source.open_tokens.end());
    lease->open_copyable = source.open_copyable;

    const std::lock_guard lock(mutex_);
    expire_pins(seams_.now_ms());
    const std::size_t full_blocks = source.committed_tokens / block_tokens;
    const std::size_t begun_tokens = source.committed_tokens % block_tokens;
    const std::size_t new_blocks = groups * (total_blocks - full_blocks);
    if (tenants_ && total_blocks * groups > tenants_->quota_blocks(source.tenant)) {
      return refusal(StatusCode::ResourceExhausted,
                     "a sequence of {} tokens needs {} KV blocks, and its tenant may have {}", max_tokens,
                     total_blocks * groups, tenants_->quota_blocks(source.tenant));
    }
    if (Status refused = check_claim(new_blocks, 0, source.tenant); !refused.ok()) return refused;

    // From here on nothing fails, but the copying of a block on a GPU.
    lease->cache = shared_from_this();
    lease->max_tokens = max_tokens;
    lease->matched_tokens = lease->committed_tokens = source.committed_tokens;
    lease->retention = source.retention;
    lease->shares = source.shares;
    lease->epoch = source.epoch;
    lease->root = source.root;
    if (lease->root != kNoNode) index_.hold_root_again(lease->root);
    lease->tenant = source.tenant;
    if (tenants_) tenants_->join_again(lease->tenant);
    lease->matched_blocks = source.matched_blocks;
    lease->prompt_blocks = source.prompt_blocks;
    lease->added_blocks = source.added_blocks;
    lease->frontier.owner = lease.get();
    pool_.promise(new_blocks);
    if (tenants_) tenants_->on_promised(lease->tenant, new_blocks);
    lease->promised_blocks = new_blocks;
    for (std::size_t group = 0; group < groups; ++group) {
      const std::vector<BlockId>& from = group == 0 ? source.blocks : source.windows[group - 1];
      std::vector<BlockId>& table = group == 0 ? lease->blocks : lease->windows[group - 1];
      table.assign(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(full_blocks));
      for (const BlockId block : table) {
        if (block != kNoBlock) hold(block);
      }
      if (begun_tokens == 0) continue;
      table.push_back(take_promised_block(lease->tenant));
      --lease->promised_blocks;
      TIERCEL_RETURN_IF_ERROR(copy_leading_tokens(from[full_blocks], table.back(), begun_tokens));
    }
    ++admitted_;
    return Lease(std::move(lease));
  } catch (const std::bad_alloc&) {
    return refusal(StatusCode::Unavailable, "the system gives no memory for a lease");
  }
}

std::size_t KvCacheState::lookup(std::span<const TokenId> prompt, const AdmitOptions& options) try {
  std::vector<BlockId> path;
  path.reserve(prompt.size() / layout_.block_tokens);
  const std::lock_guard lock(mutex_);
  return match(prompt, options, path).tokens;
} catch (const std::bad_alloc&) {
  return 0;
}

Status KvCacheState::copy_leading_tokens(BlockId from, BlockId to, std::size_t tokens) {
  if (from == to) return {};
  TIERCEL_RETURN_IF_ERROR(memory_->copy_leading_tokens(layout_, from, to, tokens));
  if (observe_copy_) observe_copy_(from, to, tokens);
  return {};
}

void KvCacheState::begin_trace(LeaseState& lease, std::span<const TokenId> prompt, const AdmitOptions& options) const {
  lease.trace = std::make_unique<LeaseState::TraceNote>();
  lease.trace->timestamp_ms = recorder_->elapsed_ms();
  lease.trace->input_length = prompt.size();
  lease.trace->prompt_ids.reserve(blocks_for(prompt.size()));
  lease.trace->output_ids.reserve(blocks_for(options.max_tokens));
  ContentKey key = root_key(seams_.key_function, fingerprint_, options.scope.salt, options.scope.adapter_id);
  while (!prompt.empty()) {
    const auto block = prompt.first(std::min<std::size_t>(prompt.size(), layout_.block_tokens));
    key = child_key(seams_.key_function, key, block);
    lease.trace->prompt_ids.push_back(trace_id(key));
    prompt = prompt.subspan(block.size());
  }
}

}  // namespace tiercel
