// What is wished for beyond use (warm, pins, expected prompts), and what is forgotten.
#include <algorithm>
#include <cassert>
#include <new>
#include <utility>

#include "kv/block_key.h"
#include "kv/kv_cache_state.h"
#include "kv/refusal.h"

namespace tiercel {

ExpectedState::~ExpectedState() {
  if (cache) cache->release(*this);
}

std::size_t KvCacheState::warm(std::span<const TokenId> prompt, const AdmitOptions& options) try {
  const std::lock_guard lock(mutex_);
  std::vector<BlockId> path;
  match(prompt, options, path);
  prepare_expiry(options.retention);
  const std::uint64_t now = seams_.now_ms();
  for_each_companion_in_reach(path, [&](BlockId block) { use(block, options.retention, now); });
  for (std::size_t i = path.size(); i-- > 0;) use(path[i], options.retention, now);
  return path.size() * layout_.block_tokens;
} catch (const std::bad_alloc&) {
  return 0;
}

// ---- Pins

Result<std::size_t> KvCacheState::pin(std::span<const TokenId> prompt, const PrefixScope& scope,
                                      std::uint64_t ttl_ms) try {
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = seams_.now_ms();
  expire_pins(now);
  Pin pin{.expires_ms = ttl_ms == 0 ? 0 : end_of_life(now, ttl_ms)};
  const Match found = match(prompt, {.scope = scope}, pin.blocks);
  if (found.blocks == 0) {
    return refusal(StatusCode::NotFound, "no whole block of this prompt is cached; compute it first, then pin it");
  }
  const std::size_t tokens = found.blocks * layout_.block_tokens;
  if (ttl_ms != 0) next_pin_expiry_ms_ = std::min(next_pin_expiry_ms_, pin.expires_ms);
  if (const auto known = pins_.find(found.node); known != pins_.end()) {
    known->second.expires_ms = pin.expires_ms;
    return tokens;
  }

  const std::vector<BlockId> path = pin.blocks;
  for_each_companion_in_reach(path, [&](BlockId block) { pin.blocks.push_back(block); });
  if (pin_counts_.empty()) pin_counts_.resize(pool_.capacity_blocks());
  std::size_t newly_held = 0, newly_pinned = 0;
  for (const BlockId block : pin.blocks) {
    newly_held += pool_.references(block) == 0;
    newly_pinned += pin_counts_[block] == 0;
    if (pin_counts_[block] == UINT16_MAX) {
      return refusal(StatusCode::ResourceExhausted, "65,535 pins share a block; unpin some");
    }
  }
  if (pinned_blocks_ + newly_pinned > pool_.capacity_blocks() / 2) {
    return refusal(
        StatusCode::ResourceExhausted,
        "pins would hold {} of {} KV blocks, and half of them is the most; unpin others, or raise capacity_bytes",
        pinned_blocks_ + newly_pinned, pool_.capacity_blocks());
  }
  TenantId tenant = kNoTenant;
  if (tenants_) {
    tenant = tenants_->join(scope.salt);
    tenants_->leave(tenant);  // known through its cached blocks
  }
  if (Status refused = check_claim(0, newly_held, tenant); !refused.ok()) return refused;
  const auto placed = pins_.emplace(found.node, std::move(pin)).first;

  // From here on nothing fails.
  for (const BlockId block : placed->second.blocks) {
    hold(block);
    if (pin_counts_[block]++ == 0) ++pinned_blocks_;
  }
  return tokens;
} catch (const std::bad_alloc&) {
  return refusal(StatusCode::Unavailable, "the system gives no memory for a pin");
}

std::size_t KvCacheState::unpin(std::span<const TokenId> prompt, const PrefixScope& scope) {
  const std::lock_guard lock(mutex_);
  std::size_t ended = 0;
  NodeId node = index_.find_root(scope.salt, scope.adapter_id);
  while (node != kNoNode && prompt.size() >= layout_.block_tokens) {
    node = index_.find_child(node, prompt.first(layout_.block_tokens));
    if (node == kNoBlock) break;
    prompt = prompt.subspan(layout_.block_tokens);
    if (const auto pin = pins_.find(node); pin != pins_.end()) {
      end_pin(pin);
      ++ended;
    }
  }
  return ended;
}

void KvCacheState::expire_pins(std::uint64_t now) {
  if (now < next_pin_expiry_ms_) return;
  next_pin_expiry_ms_ = UINT64_MAX;
  for (auto pin = pins_.begin(); pin != pins_.end();) {
    const std::uint64_t expires = pin->second.expires_ms;
    if (expires != 0 && expires <= now) {
      pin = end_pin(pin);
      continue;
    }
    if (expires != 0) next_pin_expiry_ms_ = std::min(next_pin_expiry_ms_, expires);
    ++pin;
  }
}

KvCacheState::Pins::iterator KvCacheState::end_pin(Pins::iterator pin) {
  const Pin ended = std::move(pin->second);
  const auto next = pins_.erase(pin);
  for (std::size_t i = ended.blocks.size(); i-- > 0;) {
    const BlockId block = ended.blocks[i];
    if (--pin_counts_[block] == 0) --pinned_blocks_;
    // What was kept on purpose counts as used until now; it has no more time to live than it had.
    if (index_.contains(block)) order_.on_use(block, RetentionPriority::Normal);
    drop(block);
  }
  return next;
}

// ---- Expected prompts

ExpectedPrompt KvCacheState::expect(std::span<const TokenId> prompt, const AdmitOptions& options) try {
  if (!prefix_reuse_) return {};
  const std::size_t block_tokens = layout_.block_tokens;
  const std::size_t wanted_blocks = std::min(prompt.size(), options.max_matched_tokens) / block_tokens;
  auto expected = std::make_unique<ExpectedState>();
  expected->tokens = prompt.first(wanted_blocks * block_tokens);
  expected->blocks.reserve(wanted_blocks);
  expected->frontier.owner = expected.get();

  std::unique_lock lock(mutex_);
  const Match found = match(expected->tokens, {.scope = options.scope, .partial_blocks = false}, expected->blocks);
  expected->root = index_.hold_root(options.scope.salt, options.scope.adapter_id);
  expected->cache = shared_from_this();
  expected->next = first_expected_;
  if (first_expected_ != nullptr) first_expected_->previous = expected.get();
  first_expected_ = expected.get();
  if (expect_from(*expected, 0)) await_next_block(*expected);
  if (tiers_) {
    const ContentKey hot_key = index_.key_of(found.blocks == 0 ? expected->root : found.node);
    lock.unlock();
    expected->load = tiers_->expect(expected->tokens, options, found.blocks, hot_key);
    if (expected->load && expected->load->waits) expected->awaited_tokens = expected->load->tokens.size();
  }
  return ExpectedPrompt(std::move(expected));
} catch (const std::bad_alloc&) {
  return {};  // the prompt is admitted all the same, only not expected
}

std::size_t KvCacheState::cached_tokens(const ExpectedState& expected) const {
  const std::lock_guard lock(mutex_);
  return expected.blocks.size() * layout_.block_tokens;
}

bool KvCacheState::in_flight(const ExpectedState& expected) const {
  const std::lock_guard lock(mutex_);
  if (tiers_ && tiers_->is_pending(expected.load)) return true;
  const PrefixFrontier& wanted = expected.frontier;
  if (wanted.parent == kNoNode) return false;
  PrefixFrontier* computing = nullptr;
  while ((computing = computing_.find(wanted.key, wanted.parent, wanted.tokens, computing)) != nullptr) {
    const auto& lease = *static_cast<const LeaseState*>(computing->owner);
    if (lease.shares && lease.epoch == index_.epoch(lease.root)) return true;
  }
  return false;
}

void KvCacheState::await_next_block(ExpectedState& expected) {
  const std::size_t known = expected.blocks.size() * layout_.block_tokens;
  if (known == expected.tokens.size()) return;
  PrefixFrontier& frontier = expected.frontier;
  frontier.parent = expected.blocks.empty() ? expected.root : expected.blocks.back();
  frontier.tokens = expected.tokens.subspan(known, layout_.block_tokens);
  frontier.key = index_.key_after(frontier.parent, frontier.tokens);
  awaited_.add(frontier);
}

void KvCacheState::arrive(const ContentKey& key, NodeId parent, std::span<const TokenId> tokens, BlockId block) {
  PrefixFrontier* waiting = nullptr;
  while ((waiting = awaited_.find(key, parent, tokens)) != nullptr) {
    auto& expected = *static_cast<ExpectedState*>(waiting->owner);
    awaited_.remove(*waiting);
    expected.blocks.push_back(block);
    if (expect_from(expected, expected.blocks.size() - 1)) await_next_block(expected);
  }
}

void KvCacheState::notice_return(const LeaseState& lease, std::size_t position) {
  const std::size_t block_tokens = layout_.block_tokens;
  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  for (ExpectedState* expected = first_expected_; expected != nullptr; expected = expected->next) {
    PrefixFrontier& frontier = expected->frontier;
    if (frontier.parent == kNoNode || expected->root != lease.root) continue;
    const auto tokens = expected->tokens.subspan(std::min(expected->tokens.size(), position * block_tokens));
    if (tokens.empty() || !std::ranges::equal(tokens.first(block_tokens), lease.open_tokens)) continue;
    std::vector<BlockId>& blocks = expected->blocks;
    const std::size_t known = blocks.size();
    walk_live(frontier.parent, expected->tokens.subspan(known * block_tokens), now, blocks);
    blocks.resize(std::max(known, valid_blocks(blocks, now)));
    if (blocks.size() == known) continue;
    awaited_.remove(frontier);
    if (expect_from(*expected, known)) await_next_block(*expected);
  }
}

bool KvCacheState::expect_from(ExpectedState& expected, std::size_t first) {
  for (std::size_t i = first; i < expected.blocks.size(); ++i) {
    const BlockId block = expected.blocks[i];
    if (!order_.add_expectation(block)) {
      expected.blocks.resize(i);
      return false;
    }
    for (std::size_t group = 1; group < groups_.size(); ++group) {
      if (const BlockId other = index_.companion(block, group); other != kNoBlock) order_.add_expectation(other);
    }
  }
  return true;
}

void KvCacheState::retreat_expectations(BlockId leaf) {
  if (order_.expectations(leaf) == 0) return;
  order_.forget_expectations(leaf);
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    if (const BlockId other = index_.companion(leaf, group); other != kNoBlock) order_.forget_expectations(other);
  }
  for (ExpectedState* expected = first_expected_; expected != nullptr; expected = expected->next) {
    if (expected->blocks.empty() || expected->blocks.back() != leaf) continue;  // a leaf can only be the last
    expected->blocks.pop_back();
    awaited_.remove(expected->frontier);
    await_next_block(*expected);
  }
}

void KvCacheState::release(ExpectedState& expected) {
  if (tiers_) tiers_->cancel(expected.load);
  const std::lock_guard lock(mutex_);
  awaited_.remove(expected.frontier);
  for (std::size_t i = expected.blocks.size(); i-- > 0;) {
    order_.drop_expectation(expected.blocks[i]);
    for (std::size_t group = 1; group < groups_.size(); ++group) {
      const BlockId other = index_.companion(expected.blocks[i], group);
      if (other != kNoBlock) order_.drop_expectation(other);
    }
  }
  if (expected.next != nullptr) expected.next->previous = expected.previous;
  (expected.previous != nullptr ? expected.previous->next : first_expected_) = expected.next;
  index_.drop_root(expected.root);
}

// ---- Forgetting

std::uint64_t KvCacheState::tenant_name(std::string_view salt) const {
  return root_key(xxh3_key, fingerprint_, salt, 0).low;  // not by a test's function: tenants are told apart by it
}

void KvCacheState::erase_from_tiers(TierErasure::Kind kind, const PrefixScope& scope, std::span<const TokenId> prefix) {
  ++forgotten_;
  if (!tiers_) return;
  try {
    TierErasure erasure{.kind = kind};
    if (kind == TierErasure::Kind::Tenant) erasure.tenant = tenant_name(scope.salt);
    if (kind == TierErasure::Kind::Prefix) {
      const std::size_t block_tokens = layout_.block_tokens;
      if (prefix.size() > block_tokens) prefix = prefix.first(prefix.size() / block_tokens * block_tokens);
      const auto last = prefix.last(std::min(prefix.size(), block_tokens));
      const ContentKey root = root_key(seams_.key_function, fingerprint_, scope.salt, scope.adapter_id);
      erasure.parent =
          block_key(last_key(seams_.key_function, root, prefix.first(prefix.size() - last.size()), block_tokens));
      erasure.tokens.assign(last.begin(), last.end());
    }
    tiers_->erase(erasure);
  } catch (const std::bad_alloc&) {
    tiers_->erase({.kind = TierErasure::Kind::All});  // more than was asked, never less
  }
}

std::size_t KvCacheState::invalidate(std::span<const TokenId> prefix, const PrefixScope& scope) {
  const std::lock_guard lock(mutex_);
  const std::size_t block_tokens = layout_.block_tokens;
  NodeId node = index_.find_root(scope.salt, scope.adapter_id);
  if (prefix.empty()) return 0;
  erase_from_tiers(TierErasure::Kind::Prefix, scope, prefix);
  if (node == kNoNode) return 0;
  if (prefix.size() >= block_tokens) {
    for (; prefix.size() >= block_tokens; prefix = prefix.subspan(block_tokens)) {
      node = index_.find_child(node, prefix.first(block_tokens));
      if (node == kNoBlock) return 0;
    }
    const NodeId parent = index_.parent(node);
    const std::size_t forgotten = forget_subtree(node);
    if (!PrefixIndex::is_root(parent) && is_evictable(parent)) make_evictable(parent);
    return forgotten;
  }
  // Less than a block: all first blocks that begin so.
  index_.hold_root_again(node);
  std::size_t forgotten = 0;
  for (BlockId child = index_.first_child(node); child != kNoBlock;) {
    const BlockId next = index_.next_sibling(child);
    if (std::ranges::equal(index_.tokens(child).first(prefix.size()), prefix)) forgotten += forget_subtree(child);
    child = next;
  }
  index_.drop_root(node);
  return forgotten;
}

std::size_t KvCacheState::invalidate_tenant(std::string_view salt) {
  const std::lock_guard lock(mutex_);
  erase_from_tiers(TierErasure::Kind::Tenant, {.salt = salt});
  std::size_t forgotten = 0;
  index_.for_each_root(salt, [&](NodeId root) { forgotten += forget_root(root); });
  return forgotten;
}

std::size_t KvCacheState::invalidate_all() {
  const std::lock_guard lock(mutex_);
  erase_from_tiers(TierErasure::Kind::All);
  std::size_t forgotten = 0;
  index_.for_each_root([&](NodeId root) { forgotten += forget_root(root); });
  return forgotten;
}

std::size_t KvCacheState::forget_root(NodeId root) {
  std::size_t forgotten = 0;
  index_.hold_root_again(root);
  index_.begin_epoch(root);
  while (index_.first_child(root) != kNoBlock) forgotten += forget_subtree(index_.first_child(root));
  index_.drop_root(root);
  return forgotten;
}

std::size_t KvCacheState::forget_subtree(BlockId top) {
  std::size_t forgotten = 0;
  for (BlockId node = top;;) {
    while (!index_.is_leaf(node)) node = index_.first_child(node);
    const NodeId parent = index_.parent(node);
    forget_leaf(node);
    ++forgotten;
    if (node == top) return forgotten;
    node = parent;
  }
}

Status KvCacheState::set_tenant_quota(std::string_view salt, std::size_t quota_bytes) try {
  const std::lock_guard lock(mutex_);
  if (!tenants_) {
    return refusal(
        StatusCode::InvalidArgument,
        "the cache was opened without tenant quotas; open it with tenant_quota_bytes above 0 (SIZE_MAX: no default "
        "limit)");
  }
  const std::size_t blocks = quota_bytes / memory_->stride();
  if (quota_bytes != 0 && blocks == 0) {
    return refusal(StatusCode::InvalidArgument, "a quota of {} bytes is less than one KV block; give at least {}, or 0",
                   quota_bytes, memory_->stride());
  }
  tenants_->set_quota(salt, blocks);
  return {};
} catch (const std::bad_alloc&) {
  return refusal(StatusCode::Unavailable, "the system gives no memory for a tenant");
}

}  // namespace tiercel
