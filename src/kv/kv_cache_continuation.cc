// What followed a sequence's tokens before: a guess at what follows them now, for speculative decoding.
#include <algorithm>
#include <mutex>

#include "kv/kv_cache_state.h"

namespace tiercel {

std::size_t KvCacheState::continuation(const LeaseState& lease, std::span<const TokenId> next, std::span<TokenId> out) {
  if (!lease.shares || out.empty()) return 0;
  const std::size_t block_tokens = layout_.block_tokens;
  const std::size_t known = lease.open_tokens.size() + next.size();  // of what lies behind the last full block
  const auto known_token = [&](std::size_t i) {
    return i < lease.open_tokens.size() ? lease.open_tokens[i] : next[i - lease.open_tokens.size()];
  };
  const std::lock_guard lock(mutex_);
  const std::size_t full_blocks = lease.committed_tokens / block_tokens;
  NodeId node = full_blocks == 0 ? lease.root : lease.blocks[full_blocks - 1];
  if (lease.epoch != index_.epoch(lease.root) || (full_blocks > 0 && !index_.contains(node))) return 0;
  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();

  std::size_t written = 0;
  for (std::size_t place = 0; written < out.size(); place += block_tokens) {
    const std::size_t compared = known - std::min(known, place);
    const auto fits = [&](std::span<const TokenId> tokens) {
      for (std::size_t i = 0; i < std::min(compared, tokens.size()); ++i) {
        if (tokens[i] != known_token(place + i)) return false;
      }
      return true;
    };
    // The children that came last are the first.
    std::size_t left = PrefixIndex::kMostCompared;
    BlockId child = index_.first_child(node);
    for (; child != kNoBlock && left > 0 && (is_expired(child, now) || !fits(index_.tokens(child))); --left) {
      child = index_.next_sibling(child);
    }
    if (left == 0) child = kNoBlock;
    std::span<const TokenId> tokens;
    if (child != kNoBlock) {
      tokens = index_.tokens(child);
    } else if (!PrefixIndex::is_root(node)) {
      tokens = tails_.find(node, [&](std::span<const TokenId> tail) { return tail.size() > compared && fits(tail); });
    }
    const auto rest = tokens.subspan(std::min(compared, tokens.size()));
    const std::size_t taken = std::min(rest.size(), out.size() - written);
    std::ranges::copy(rest.first(taken), out.begin() + static_cast<std::ptrdiff_t>(written));
    written += taken;
    if (child == kNoBlock) break;
    node = child;
  }
  return written;
}

void KvCacheState::remember_tail(const LeaseState& lease) {
  const std::size_t full_blocks = lease.committed_tokens / layout_.block_tokens;
  // What must not outlast its time would do so with another's block.
  if (!lease.shares || lease.open_tokens.empty() || full_blocks == 0 || lease.retention.ttl_ms > 0) return;
  const BlockId block = lease.blocks[full_blocks - 1];
  if (lease.epoch == index_.epoch(lease.root) && index_.contains(block)) tails_.remember(block, lease.open_tokens);
}

}  // namespace tiercel
