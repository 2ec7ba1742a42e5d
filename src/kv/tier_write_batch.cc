#include "kv/tier_write_batch.h"

#include <algorithm>
#include <cassert>
#include <mutex>

#include "kv/block_key.h"
#include "kv/kv_cache_state.h"

namespace tiercel {

TierWriteBatch::TierWriteBatch(KvCacheState& cache, TierStore& store)
    : cache_(cache),
      store_(store),
      bytes_(cache.memory_->allocate_host(kTierBatchBlocks * cache.layout_.block_bytes())),
      tokens_(kTierBatchBlocks * cache.layout_.block_tokens) {
  records_.reserve(kTierBatchBlocks);
}

bool TierWriteBatch::is_of_scope(const TierWrite& path, NodeId node) const {
  const PrefixIndex& index = cache_.index_;
  return PrefixIndex::is_root(node) && index.adapter_of(node) == path.adapter_id &&
         cache_.tenant_name(index.salt_of(node)) == path.tenant;
}

std::span<const TierRecord> TierWriteBatch::copy(const TierWrite& path, std::size_t first, std::size_t last) {
  assert(last - first <= kTierBatchBlocks);
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t block_bytes = cache_.layout_.block_bytes();
  records_.clear();
  {
    const std::lock_guard cache_lock(cache_.mutex_);
    const PrefixIndex& index = cache_.index_;
    // With all before them, as every holder does.
    std::size_t held = 0, newly_held = 0;
    for (; held < last; ++held) {
      const BlockId block = path.blocks[held];
      if (!index.contains(block) || block_key(index.key_of(block)) != path.keys[held + 1]) break;
      // Another block may be in its place, and have its key where keys collide.
      const NodeId parent = index.parent(block);
      if (held > 0 ? parent != path.blocks[held - 1] : !is_of_scope(path, parent)) break;
      newly_held += cache_.pool_.references(block) == 0;
    }
    if (held <= first || newly_held > cache_.pool_.claimable_blocks()) return {};
    for (std::size_t i = 0; i < held; ++i) cache_.hold(path.blocks[i]);
    for (std::size_t i = first; i < held; ++i) {
      const auto tokens = std::span(tokens_).subspan((i - first) * block_tokens, block_tokens);
      std::ranges::copy(index.tokens(path.blocks[i]), tokens.begin());
      records_.push_back({.key = path.keys[i + 1],
                          .parent = path.keys[i],
                          .tenant = path.tenant,
                          .adapter_id = path.adapter_id,
                          .tokens = tokens,
                          .bytes = std::span(bytes_.get() + (i - first) * block_bytes, block_bytes),
                          .position = static_cast<std::uint32_t>(i),
                          .copyable = index.is_copyable(path.blocks[i])});
    }
  }
  const std::size_t held = first + records_.size();
  const auto blocks = std::span(path.blocks).subspan(first, records_.size());
  Status copied = cache_.memory_->save(blocks, block_bytes, bytes_.get());
  if (copied.ok()) copied = store_.stage(blocks);
  const std::lock_guard cache_lock(cache_.mutex_);
  for (std::size_t i = held; i-- > 0;) cache_.drop(path.blocks[i]);
  if (!copied.ok()) records_.clear();
  return records_;
}

}  // namespace tiercel
