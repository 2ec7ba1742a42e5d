#include "tiercel/kv_cache.h"

#include <cassert>
#include <new>
#include <utility>

#include "kv/kv_cache_state.h"
#include "kv/refusal.h"
#include "kv/shared_tiers.h"

namespace tiercel {

Lease::Lease() = default;
Lease::Lease(std::unique_ptr<LeaseState> state) : state_(std::move(state)) {}
Lease::Lease(Lease&&) noexcept = default;
Lease& Lease::operator=(Lease&&) noexcept = default;
Lease::~Lease() = default;

std::size_t Lease::matched_tokens() const { return state_ ? state_->matched_tokens : 0; }

std::size_t Lease::matched_tokens_from(std::size_t tier) const {
  return state_ && tier < state_->matched_tokens_from.size() ? state_->matched_tokens_from[tier] : 0;
}

std::size_t Lease::committed_tokens() const { return state_ ? state_->committed_tokens : 0; }

std::span<const BlockId> Lease::block_table(std::size_t group) const {
  if (!state_) return {};
  assert(group <= state_->windows.size());
  return group == 0 ? state_->blocks : state_->windows[group - 1];
}

Status Lease::grow(std::size_t tokens) {
  if (state_) return state_->cache->grow(*state_, tokens);
  return tokens == 0 ? Status()
                     : refusal(StatusCode::ResourceExhausted, "an empty lease holds no tokens; take one from admit()");
}

void Lease::commit(std::span<const TokenId> tokens, bool share, bool copyable) {
  assert(state_ || tokens.empty());
  if (state_) state_->cache->commit(*state_, tokens, share, copyable);
}

std::size_t Lease::extend() { return state_ ? state_->cache->extend(*state_) : SIZE_MAX; }

std::size_t Lease::continuation(std::span<const TokenId> next, std::span<TokenId> out) const {
  return state_ ? state_->cache->continuation(*state_, next, out) : 0;
}

Result<Lease> Lease::fork(std::size_t max_tokens) const {
  if (state_) return state_->cache->fork(*state_, max_tokens);
  return refusal(StatusCode::InvalidArgument, "an empty lease has nothing to fork; take one from admit()");
}

ExpectedPrompt::ExpectedPrompt() = default;
ExpectedPrompt::ExpectedPrompt(std::unique_ptr<ExpectedState> state) : state_(std::move(state)) {}
ExpectedPrompt::ExpectedPrompt(ExpectedPrompt&&) noexcept = default;
ExpectedPrompt& ExpectedPrompt::operator=(ExpectedPrompt&&) noexcept = default;
ExpectedPrompt::~ExpectedPrompt() = default;

std::size_t ExpectedPrompt::cached_tokens() const { return state_ ? state_->cache->cached_tokens(*state_) : 0; }

bool ExpectedPrompt::in_flight() const { return state_ && state_->cache->in_flight(*state_); }
std::size_t ExpectedPrompt::awaited_tokens() const { return state_ ? state_->awaited_tokens : 0; }

Result<KvCache> KvCache::open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::span<const KvGroup> groups) {
  return KvCacheState::open_with_tiers(options, layout, fingerprint, groups, nullptr);
}

Result<KvCache> KvCacheState::open_with_tiers(const KvCacheOptions& options, const KvLayout& layout,
                                              const Fingerprint& fingerprint, std::span<const KvGroup> groups,
                                              std::shared_ptr<const BlockMemory> memory) try {
  auto stores = make_tier_stores(options);
  if (!stores.ok()) return stores.status();
  KvCacheOptions with_tiers = options;
  with_tiers.tiers = *std::move(stores);
  return open(with_tiers, layout, fingerprint, groups, {}, std::move(memory));
} catch (const std::bad_alloc&) {
  return refusal(StatusCode::Unavailable, "the system gives no memory for a KV cache");
}

KvCache::KvCache(std::shared_ptr<KvCacheState> state) : state_(std::move(state)) {}
KvCache::KvCache(KvCache&&) noexcept = default;

KvCache& KvCache::operator=(KvCache&& other) noexcept {
  if (this != &other && state_) state_->close();
  state_ = std::move(other.state_);
  return *this;
}

KvCache::~KvCache() {
  if (state_) state_->close();
}

Result<Lease> KvCache::admit(std::span<const TokenId> prompt, const AdmitOptions& options, ExpectedPrompt* expected) {
  return state_->admit(prompt, options, expected == nullptr ? nullptr : expected->state_.get());
}

std::size_t KvCache::demote(Lease lease) { return state_->demote(std::move(lease)); }

std::size_t KvCache::lookup(std::span<const TokenId> prompt, const AdmitOptions& options) const {
  return state_->lookup(prompt, options);
}

ExpectedPrompt KvCache::expect(std::span<const TokenId> prompt, const AdmitOptions& options) {
  return state_->expect(prompt, options);
}

std::size_t KvCache::warm(std::span<const TokenId> prompt, const AdmitOptions& options) {
  return state_->warm(prompt, options);
}

Result<std::size_t> KvCache::pin(std::span<const TokenId> prompt, const PrefixScope& scope, std::uint64_t ttl_ms) {
  return state_->pin(prompt, scope, ttl_ms);
}

std::size_t KvCache::unpin(std::span<const TokenId> prompt, const PrefixScope& scope) {
  return state_->unpin(prompt, scope);
}

std::size_t KvCache::invalidate(std::span<const TokenId> prefix, const PrefixScope& scope) {
  return state_->invalidate(prefix, scope);
}

std::size_t KvCache::invalidate_tenant(std::string_view salt) { return state_->invalidate_tenant(salt); }

Status KvCache::set_tenant_quota(std::string_view salt, std::size_t quota_bytes) {
  return state_->set_tenant_quota(salt, quota_bytes);
}

std::size_t KvCache::invalidate_all() { return state_->invalidate_all(); }

void KvCache::report_prefill(std::size_t tokens, std::size_t position, double seconds) {
  state_->report_prefill(tokens, position, seconds);
}

void KvCache::notify_transfers(std::function<void()> notify) { state_->notify_transfers(std::move(notify)); }

void KvCache::observe_copies(std::function<void(BlockId, BlockId, std::size_t)> observe) {
  state_->observe_copies(std::move(observe));
}

Status KvCache::flush(std::uint64_t timeout_ms) { return state_->flush(timeout_ms); }

std::byte* KvCache::block(BlockId id) const { return state_->block(id); }

const KvLayout& KvCache::layout() const { return state_->layout(); }

KvRoom KvCache::room() const { return state_->room(); }

std::size_t KvCache::missing_blocks(const ExpectedPrompt& expected, std::size_t max_tokens,
                                    std::span<const Lease* const> ended) const {
  return state_->missing_blocks(expected.state_.get(), max_tokens, ended);
}
bool KvCache::prefault() { return state_->prefault(); }
KvCacheStats KvCache::stats() const { return state_->stats(); }

}  // namespace tiercel
