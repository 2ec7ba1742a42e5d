#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

TEST(LruPolicy, NamesTheOldestEvictableBlock) {
  const auto policy = lru()(4);
  EXPECT_EQ(policy->victim(), kNoBlock);
  for (const BlockId block : {2u, 0u, 3u, 1u}) policy->on_insert(block, {}), policy->on_use(block);
  EXPECT_EQ(policy->victim(), kNoBlock) << "used is not evictable yet";
  for (const BlockId block : {1u, 2u, 0u}) policy->on_evictable(block);
  EXPECT_EQ(policy->victim(), 2u) << "by last use, not in order of becoming evictable";
  EXPECT_EQ(policy->victim(), 2u) << "asking does not remove";
  policy->on_use(2);
  EXPECT_EQ(policy->victim(), 0u);
  policy->on_held(0);
  EXPECT_EQ(policy->victim(), 1u);
  policy->on_remove(1);
  EXPECT_EQ(policy->victim(), 2u);
  policy->on_remove(3);  // known, but not evictable
  policy->on_remove(2);
  EXPECT_EQ(policy->victim(), kNoBlock);
}

TEST(LruPolicy, ServesACacheOfOneBlock) {
  const auto policy = lru()(1);
  for (std::uint64_t content = 0; content < 3; ++content) {
    policy->on_insert(0, {.content = content});
    policy->on_use(0);
    policy->on_evictable(0);
    ASSERT_EQ(policy->victim(), 0u);
    policy->on_remove(0);
    ASSERT_EQ(policy->victim(), kNoBlock);
  }
}

// A block that becomes a leaf late is put where it belongs, from whichever end of the order it is sought.
TEST(LruPolicy, AgreesWithSortingByLastUse) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t capacity = 1 + random() % 20;
    const auto policy = lru()(capacity);
    struct Known {
      std::uint64_t last_use = 0;
      bool evictable = false;
    };
    std::vector<std::optional<Known>> known(capacity);
    std::uint64_t now = 0;
    for (int step = 0; step < 600; ++step) {
      const auto block = static_cast<BlockId>(random() % capacity);
      std::optional<Known>& entry = known[block];
      if (!entry) {
        policy->on_insert(block, {.content = random()});
        policy->on_use(block);
        entry = Known{.last_use = ++now};
      } else if (const auto choice = random() % 8; choice < 3) {
        policy->on_use(block);
        entry->last_use = ++now;
      } else if (choice < 7) {
        entry->evictable ? policy->on_held(block) : policy->on_evictable(block);
        entry->evictable = !entry->evictable;
      } else {
        policy->on_remove(block);
        entry.reset();
      }
      BlockId oldest = kNoBlock;
      for (BlockId id = 0; id < capacity; ++id) {
        if (!known[id] || !known[id]->evictable) continue;
        if (oldest == kNoBlock || known[id]->last_use < known[oldest]->last_use) oldest = id;
      }
      ASSERT_EQ(policy->victim(), oldest) << "seed " << seed << " step " << step;
    }
  }
}

TEST(LruPolicy, TakesSixteenBytesPerBlock) { EXPECT_LE(lru()(10'000)->metadata_bytes(), 16u * 10'001u); }

}  // namespace
}  // namespace tiercel
