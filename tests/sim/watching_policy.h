// An eviction policy that checks how it is called and tells the model what it hears. It decides as one of the cache's
// own policies does, at random, or answers nonsense.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "tests/sim/model.h"
#include "tiercel/eviction_policy.h"

namespace tiercel::sim {

enum class PolicyKind { Lru, Lfu, Adaptive, Random, Liar };

class WatchingPolicy final : public EvictionPolicy {
 public:
  WatchingPolicy(PolicyKind kind, std::size_t capacity_blocks, std::uint64_t seed, Model& model);

  void on_insert(BlockId block, const BlockOrigin& origin) override;
  void on_use(BlockId block) override;
  void on_evictable(BlockId block) override;
  void on_held(BlockId block) override;
  void on_remove(BlockId block) override;
  BlockId victim() override;
  std::size_t metadata_bytes() const override { return inner_ ? inner_->metadata_bytes() : 0; }

  // Whether a liar may lie now.
  void set_honest(bool honest) { honest_ = honest; }
  bool is_evictable(BlockId block) const { return blocks_[block].evictable; }

 private:
  struct Known {
    bool inserted = false;
    bool evictable = false;
  };

  void expect(bool condition, const char* what);
  BlockId any_evictable();

  const PolicyKind kind_;
  const std::unique_ptr<EvictionPolicy> inner_;  // null where the decision is made here
  Model& model_;
  std::mt19937_64 random_;
  std::vector<Known> blocks_;
  bool honest_ = true;
};

}  // namespace tiercel::sim
