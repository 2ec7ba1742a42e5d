#include "tests/sim/watching_policy.h"

#include "tests/sim/allocation_faults.h"

namespace tiercel::sim {
namespace {

std::unique_ptr<EvictionPolicy> make_inner(PolicyKind kind, std::size_t capacity_blocks) {
  switch (kind) {
    case PolicyKind::Lru: return lru()(capacity_blocks);
    case PolicyKind::Lfu: return lfu()(capacity_blocks);
    case PolicyKind::Adaptive: return adaptive()(capacity_blocks);
    default: return nullptr;
  }
}

}  // namespace

WatchingPolicy::WatchingPolicy(PolicyKind kind, std::size_t capacity_blocks, std::uint64_t seed, Model& model)
    : kind_(kind), inner_(make_inner(kind, capacity_blocks)), model_(model), random_(seed), blocks_(capacity_blocks) {}

void WatchingPolicy::expect(bool condition, const char* what) {
  if (!condition && model_.violation.empty()) model_.violation = what;
}

void WatchingPolicy::on_insert(BlockId block, const BlockOrigin& origin) {
  {
    const WithoutFaults pause;
    expect(!blocks_[block].inserted, "the policy was told twice that a block entered");
    blocks_[block] = {.inserted = true};
    model_.on_insert(block, origin);
  }
  if (inner_) inner_->on_insert(block, origin);
}

void WatchingPolicy::on_use(BlockId block) {
  {
    const WithoutFaults pause;
    expect(blocks_[block].inserted, "the policy was told of the use of a block it does not know");
    model_.on_use(block);
  }
  if (inner_) inner_->on_use(block);
}

void WatchingPolicy::on_evictable(BlockId block) {
  expect(blocks_[block].inserted && !blocks_[block].evictable, "a block became evictable that was so, or is not known");
  blocks_[block].evictable = true;
  if (inner_) inner_->on_evictable(block);
}

void WatchingPolicy::on_held(BlockId block) {
  expect(blocks_[block].evictable, "a block was held that was not evictable");
  blocks_[block].evictable = false;
  if (inner_) inner_->on_held(block);
}

void WatchingPolicy::on_remove(BlockId block) {
  {
    const WithoutFaults pause;
    expect(blocks_[block].inserted, "the policy was told that a block left which it does not know");
    blocks_[block] = {};
    model_.on_remove(block);
  }
  if (inner_) inner_->on_remove(block);
}

BlockId WatchingPolicy::any_evictable() {
  std::vector<BlockId> evictable;
  for (BlockId block = 0; block < blocks_.size(); ++block) {
    if (blocks_[block].evictable) evictable.push_back(block);
  }
  return evictable.empty() ? kNoBlock : evictable[random_() % evictable.size()];
}

BlockId WatchingPolicy::victim() {
  const WithoutFaults pause;
  model_.on_victim_asked();
  if (inner_) return inner_->victim();
  if (kind_ != PolicyKind::Liar || honest_ || random_() % 2 == 0) return any_evictable();
  const BlockId answers[] = {kNoBlock, kNoBlock - 1, static_cast<BlockId>(blocks_.size()),
                             static_cast<BlockId>(random_() % blocks_.size())};
  const BlockId answer = answers[random_() % std::size(answers)];
  if (answer >= blocks_.size() || !blocks_[answer].evictable) model_.call.policy_lied = true;
  return answer;
}

}  // namespace tiercel::sim
