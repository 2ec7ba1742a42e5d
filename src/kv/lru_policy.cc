// Least recently used first: the evictable blocks in one ring, ordered by their last use.
#include "kv/use_order.h"
#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

class LruPolicy final : public EvictionPolicy {
 public:
  explicit LruPolicy(std::size_t capacity_blocks) : order_(capacity_blocks, 1) {}

  void on_insert(BlockId, const BlockOrigin&) override {}

  void on_use(BlockId block) override {
    const bool listed = order_.is_listed(block);
    if (listed) order_.remove(block);
    order_.stamp(block);
    if (listed) order_.insert(kRing, block);
  }

  void on_evictable(BlockId block) override { order_.insert(kRing, block); }
  void on_held(BlockId block) override { order_.remove(block); }

  void on_remove(BlockId block) override {
    if (order_.is_listed(block)) order_.remove(block);
  }

  BlockId victim() override { return order_.oldest(kRing); }
  std::size_t metadata_bytes() const override { return order_.metadata_bytes(); }

 private:
  static constexpr std::size_t kRing = 0;

  UseOrder order_;
};

}  // namespace

EvictionPolicyFactory lru() {
  return [](std::size_t capacity_blocks) { return std::make_unique<LruPolicy>(capacity_blocks); };
}

}  // namespace tiercel
