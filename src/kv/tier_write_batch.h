// Blocks of a path, copied out of the cache to be written. They are held only while they are copied, so that a store
// that hangs holds none. Of one thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "kv/prefix_index.h"
#include "kv/tier_transfer.h"

namespace tiercel {

class KvCacheState;

class TierWriteBatch {
 public:
  // For `store`. Both outlive this. May throw std::bad_alloc.
  TierWriteBatch(KvCacheState& cache, TierStore& store);

  // Blocks [first, last) of `path`, kTierBatchBlocks at most, as far as they are still cached with all before them.
  // Empty also where the store could not stage them. Valid until the next call. May throw std::bad_alloc.
  std::span<const TierRecord> copy(const TierWrite& path, std::size_t first, std::size_t last);

 private:
  // With the cache's mutex locked. Whether a block behind `node` is the first of its sequence, of the scope of `path`.
  bool is_of_scope(const TierWrite& path, NodeId node) const;

  KvCacheState& cache_;
  TierStore& store_;
  std::shared_ptr<std::byte> bytes_;
  std::vector<TokenId> tokens_;
  std::vector<TierRecord> records_;
};

}  // namespace tiercel
