// Least recently used first: the evictable blocks in a doubly linked list, ordered by their last use.
#include <cassert>
#include <cstdint>
#include <vector>

#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

class LruPolicy final : public EvictionPolicy {
 public:
  explicit LruPolicy(std::size_t capacity_blocks) : end_(static_cast<BlockId>(capacity_blocks)), nodes_(end_ + 1) {
    nodes_[end_].older = nodes_[end_].newer = end_;
  }

  void on_use(BlockId block) override {
    nodes_[block].last_use = ++uses_;
    if (!is_listed(block)) return;
    unlink(block);
    link_after(newest(), block);
  }

  void on_evictable(BlockId block) override {
    assert(!is_listed(block));
    BlockId before = newest();
    if (before != end_ && nodes_[before].last_use > nodes_[block].last_use) {
      // It lost its last child, which was the oldest of all: its own place is seldom far from there.
      before = end_;
      while (nodes_[nodes_[before].newer].last_use < nodes_[block].last_use) before = nodes_[before].newer;
    }
    link_after(before, block);
  }

  void on_held(BlockId block) override { unlink(block); }

  void on_remove(BlockId block) override {
    if (is_listed(block)) unlink(block);
  }

  BlockId victim() override {
    const BlockId oldest = nodes_[end_].newer;
    return oldest == end_ ? kNoBlock : oldest;
  }

 private:
  struct Node {
    std::uint64_t last_use = 0;
    BlockId older = kNoBlock;  // kNoBlock: not in the list
    BlockId newer = kNoBlock;
  };

  bool is_listed(BlockId block) const { return nodes_[block].older != kNoBlock; }
  BlockId newest() const { return nodes_[end_].older; }

  void link_after(BlockId older, BlockId block) {
    const BlockId newer = nodes_[older].newer;
    nodes_[block].older = older;
    nodes_[block].newer = newer;
    nodes_[older].newer = nodes_[newer].older = block;
  }

  void unlink(BlockId block) {
    assert(is_listed(block));
    Node& node = nodes_[block];
    nodes_[node.older].newer = node.newer;
    nodes_[node.newer].older = node.older;
    node.older = node.newer = kNoBlock;
  }

  const BlockId end_;  // closes the list to a ring: newer than the newest, older than the oldest
  std::vector<Node> nodes_;
  std::uint64_t uses_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru_policy(std::size_t capacity_blocks) {
  return std::make_unique<LruPolicy>(capacity_blocks);
}

}  // namespace tiercel
