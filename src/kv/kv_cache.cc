#include "tiercel/kv_cache.h"

#include <cassert>
#include <utility>

#include "kv/kv_cache_state.h"

namespace tiercel {

Lease::Lease() = default;
Lease::Lease(std::unique_ptr<LeaseState> state) : state_(std::move(state)) {}
Lease::Lease(Lease&&) noexcept = default;
Lease& Lease::operator=(Lease&&) noexcept = default;
Lease::~Lease() = default;

std::size_t Lease::matched_tokens() const { return state_ ? state_->matched_tokens : 0; }

std::size_t Lease::committed_tokens() const { return state_ ? state_->committed_tokens : 0; }

std::span<const BlockId> Lease::block_table() const {
  return state_ ? std::span<const BlockId>(state_->blocks) : std::span<const BlockId>();
}

Status Lease::grow(std::size_t tokens) {
  if (state_) return state_->cache->grow(*state_, tokens);
  return tokens == 0 ? Status() : Status::resource_exhausted("an empty lease holds no tokens; take one from admit()");
}

void Lease::commit(std::span<const TokenId> tokens, bool share) {
  assert(state_ || tokens.empty());
  if (state_) state_->cache->commit(*state_, tokens, share);
}

Result<KvCache> KvCache::open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::unique_ptr<EvictionPolicy> policy) {
  return KvCacheState::open(options, layout, fingerprint, std::move(policy));
}

KvCache::KvCache(std::shared_ptr<KvCacheState> state) : state_(std::move(state)) {}
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;
KvCache::~KvCache() = default;

Result<Lease> KvCache::admit(std::span<const TokenId> prompt, const AdmitOptions& options) {
  return state_->admit(prompt, options);
}

std::size_t KvCache::lookup(std::span<const TokenId> prompt, const AdmitOptions& options) const {
  return state_->lookup(prompt, options);
}

std::size_t KvCache::invalidate_all() { return state_->invalidate_all(); }

std::byte* KvCache::block(BlockId id) const { return state_->block(id); }

const KvLayout& KvCache::layout() const { return state_->layout(); }

KvCacheStats KvCache::stats() const { return state_->stats(); }

}  // namespace tiercel
