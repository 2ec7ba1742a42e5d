#include <algorithm>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

void add(EvictionPolicy& policy, BlockId block, int uses) {
  policy.on_insert(block, {});
  while (uses-- > 0) policy.on_use(block);
}

TEST(LfuPolicy, NamesTheLeastOftenUsedAndOfTheseTheOldest) {
  const auto policy = lfu()(8);
  EXPECT_EQ(policy->victim(), kNoBlock);
  add(*policy, 0, 3);
  add(*policy, 1, 2);
  add(*policy, 2, 1);
  add(*policy, 3, 2);
  for (const BlockId block : {3u, 0u, 1u, 2u}) policy->on_evictable(block);
  EXPECT_EQ(policy->victim(), 2u);
  EXPECT_EQ(policy->victim(), 2u) << "asking does not remove";
  policy->on_held(2);
  EXPECT_EQ(policy->victim(), 1u) << "as often used as 3, and before it";
  policy->on_use(1);
  EXPECT_EQ(policy->victim(), 3u);
  policy->on_evictable(2);
  EXPECT_EQ(policy->victim(), 2u);
  for (const BlockId block : {2u, 3u, 0u, 1u}) {
    EXPECT_EQ(policy->victim(), block);
    policy->on_remove(block);
  }
  EXPECT_EQ(policy->victim(), kNoBlock);
}

TEST(LfuPolicy, ForgetsTheUsesOfAnIdsEarlierContent) {
  const auto policy = lfu()(4);
  add(*policy, 0, 7);
  policy->on_evictable(0);
  policy->on_remove(0);
  add(*policy, 1, 2);
  add(*policy, 0, 1);
  policy->on_evictable(0);
  policy->on_evictable(1);
  EXPECT_EQ(policy->victim(), 0u);
}

TEST(LfuPolicy, YesterdaysFavouriteLeaves) {
  constexpr std::size_t kCapacity = 100;
  const auto policy = lfu()(kCapacity);
  add(*policy, 0, 40);
  policy->on_evictable(0);
  add(*policy, 1, 0);
  // Block 1 is used once for each capacity's worth of uses, the rest is others'.
  add(*policy, 2, 0);
  for (int period = 0; period < 8; ++period) {
    policy->on_use(1);
    for (std::size_t i = 1; i < kCapacity; ++i) policy->on_use(2);
  }
  policy->on_evictable(1);
  EXPECT_EQ(policy->victim(), 0u) << "40 uses, eight halvings ago, against about two";
  policy->on_remove(0);
  EXPECT_EQ(policy->victim(), 1u);
}

TEST(LfuPolicy, WhatLiesIdleForLongStaysTheLeast) {
  const auto policy = lfu()(3);
  add(*policy, 0, 1);
  policy->on_evictable(0);
  add(*policy, 1, 1);
  for (int round = 0; round < 10'000; ++round) {  // some 156 halvings: far more than a count has bits
    add(*policy, 2, 1);
    policy->on_evictable(2);
    if (round > 200) {
      ASSERT_EQ(policy->victim(), 0u) << round;
    }
    policy->on_remove(2);
  }
  policy->on_use(0);
  add(*policy, 2, 2);
  policy->on_evictable(2);
  EXPECT_EQ(policy->victim(), 0u);
}

// Against counts held as fractions and sorted. Weights are exact in both up to 7 uses, so uses are few; ageing is in.
TEST(LfuPolicy, AgreesWithSortingByAgedCount) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t capacity = 1 + random() % 40;
    const std::uint64_t period_uses = std::max<std::uint64_t>(64, capacity);
    const auto policy = lfu()(capacity);
    struct Known {
      std::uint64_t weight = 0;  // a use weighs 2^period: as good as halving all that came before
      std::uint64_t uses = 0;
      std::uint64_t last_use = 0;
      bool evictable = false;
    };
    std::vector<std::optional<Known>> known(capacity);
    std::uint64_t now = 0;
    const auto use = [&](BlockId block) {
      policy->on_use(block);
      Known& entry = *known[block];
      entry.last_use = ++now;
      entry.weight += std::uint64_t{1} << (now / period_uses);
      ++entry.uses;
    };
    for (int step = 0; step < 1000 && now / period_uses < 7; ++step) {
      const auto block = static_cast<BlockId>(random() % capacity);
      std::optional<Known>& entry = known[block];
      const auto choice = random() % 8;
      if (!entry) {
        policy->on_insert(block, {.content = random()});
        entry = Known{};
        use(block);
      } else if (choice < 3 && entry->uses < 3) {
        use(block);
      } else if (choice < 7) {
        entry->evictable ? policy->on_held(block) : policy->on_evictable(block);
        entry->evictable = !entry->evictable;
      } else {
        policy->on_remove(block);
        entry.reset();
      }
      // Of a weight the first bit and two behind it count.
      const auto rank = [](std::uint64_t weight) {
        std::uint64_t doublings = 0;
        for (; weight >= 8; weight /= 2) ++doublings;
        return weight + doublings * 4;
      };
      BlockId least = kNoBlock;
      for (BlockId id = 0; id < capacity; ++id) {
        if (!known[id] || !known[id]->evictable) continue;
        const auto key = [&](BlockId of) { return std::tuple(rank(known[of]->weight), known[of]->last_use); };
        if (least == kNoBlock || key(id) < key(least)) least = id;
      }
      ASSERT_EQ(policy->victim(), least) << "seed " << seed << " step " << step;
    }
  }
}

TEST(LfuPolicy, ServesACacheOfOneBlock) {
  const auto policy = lfu()(1);
  for (int turn = 0; turn < 300; ++turn) {
    add(*policy, 0, 1 + turn % 3);
    policy->on_evictable(0);
    ASSERT_EQ(policy->victim(), 0u);
    policy->on_remove(0);
    ASSERT_EQ(policy->victim(), kNoBlock);
  }
}

}  // namespace
}  // namespace tiercel
