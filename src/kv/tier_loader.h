// Reads blocks of one tier into the cache, a batch at a time; on the thread of the tier's worker.
//
// Each batch is a lease of its own, as any request's, so promises, quotas and what others see in flight need no rule of
// their own. From the front it commits block for block what was verified; from the back, what was read is kept with the
// load until computing has come there.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "kv/block_reader.h"
#include "kv/tier_monitor.h"
#include "kv/tier_transfer.h"

namespace tiercel {

class KvCacheState;

class TierLoader {
 public:
  // `is_readable`: whether the tier may be asked now. All outlive this. May throw std::bad_alloc.
  TierLoader(KvCacheState& cache, TierId tier, TierStore& store, TierMonitor& monitor,
             std::function<bool()> is_readable);

  // One batch of the part that `load` has here. True: the part goes on. May throw std::bad_alloc.
  bool load_batch(TierLoad& load);

 private:
  bool load_batch_from_front(TierLoad& load);
  bool load_batch_from_back(TierLoad& load);
  // Reads blocks [first, last) of the load's prompt into the blocks given.
  std::vector<TierRead> read(const TierLoad& load, std::size_t first, std::size_t last, std::span<const BlockId> into);

  KvCacheState& cache_;
  const TierId tier_;
  TierStore& store_;
  TierMonitor& monitor_;
  const std::function<bool()> is_readable_;
  BlockReader reader_;
};

}  // namespace tiercel
