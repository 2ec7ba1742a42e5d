// One set of stores below the caches of several replicas: what one of them computed, the others find in a tier.
//
// A store serves one cache, whose erasures and reads its worker keeps apart (TierStore). Several caches forget one
// after the other, and each erases from the store by a worker of its own: in between, one that has not forgotten yet
// could write a block back that another has erased, and a third read it. So each cache has a handle of each store, and
// nothing is found through any of them from the moment that a Hold begins until it has ended and every cache has
// erased what it was asked to. Then it is gone: a cache that has forgotten copies it no more, and what it had copied
// was written before its own erasure.
//
// Thread-safety: any. A handle keeps its store alive.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "tiercel/options.h"
#include "tiercel/status.h"
#include "tiercel/tier_store.h"

namespace tiercel {

// The stores that the options ask for: memory, disk, and those of their own, in this order.
Result<std::vector<std::shared_ptr<TierStore>>> make_tier_stores(const KvCacheOptions& options);

class SharedTiers {
 public:
  explicit SharedTiers(std::vector<std::shared_ptr<TierStore>> stores);

  // Opens every store; the caches that come later are told what became of it. Without it, the first of them does.
  void open(const KvLayout& layout, const Fingerprint& fingerprint) const;

  // Of each store, for one more cache.
  std::vector<std::shared_ptr<TierStore>> handles() const;

  // While caches forget.
  class Hold {
   public:
    explicit Hold(const SharedTiers& tiers);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    const SharedTiers& tiers_;
  };

 private:
  class Shared;
  class Handle;
  std::vector<std::shared_ptr<Shared>> shared_;
};

}  // namespace tiercel
