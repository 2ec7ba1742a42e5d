#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

TEST(LruPolicy, NamesTheOldestEvictableBlock) {
  const auto policy = lru()(4);
  EXPECT_EQ(policy->victim(), kNoBlock);
  for (const BlockId block : {2u, 0u, 3u, 1u}) policy->on_use(block);
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

TEST(LruPolicy, AgreesWithSortingByLastUse) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t capacity = 1 + random() % 20;
    const auto policy = lru()(capacity);
    std::vector<std::uint64_t> last_use(capacity, 0);
    std::set<BlockId> evictable;
    std::uint64_t now = 0;
    for (int step = 0; step < 400; ++step) {
      const auto block = static_cast<BlockId>(random() % capacity);
      switch (random() % 4) {
        case 0: policy->on_use(block), last_use[block] = ++now; break;
        case 1:
          if (last_use[block] > 0 && evictable.insert(block).second) policy->on_evictable(block);
          break;
        case 2:
          if (evictable.erase(block) > 0) policy->on_held(block);
          break;
        case 3:
          if (random() % 4 == 0) policy->on_remove(block), evictable.erase(block), last_use[block] = 0;
          break;
      }
      const auto oldest = std::ranges::min_element(evictable, {}, [&](BlockId id) { return last_use[id]; });
      ASSERT_EQ(policy->victim(), oldest == evictable.end() ? kNoBlock : *oldest)
          << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace tiercel
