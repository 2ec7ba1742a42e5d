#include "replay/offline_optimum.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "replay/replay.h"
#include "tests/replay/trace_file.h"
#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

using BlockSet = std::uint32_t;  // a bit for each block

bool keeps_whole_prefixes(BlockSet set, const std::vector<BlockSet>& ancestors) {
  for (std::size_t block = 0; block < ancestors.size(); ++block) {
    if ((set >> block & 1) != 0 && (set & ancestors[block]) != ancestors[block]) return false;
  }
  return true;
}

// Every way to keep whole prefixes, tried out.
std::uint64_t best_of_all_ways(const Trace& trace, std::size_t capacity_blocks) {
  std::vector<BlockSet> ancestors(trace.distinct_blocks);
  for (const TraceRequest& request : trace.requests) {
    BlockSet before = 0;
    for (const TokenId block : trace.shared_blocks(request)) {
      ancestors[static_cast<std::size_t>(block)] = before;
      before |= BlockSet{1} << block;
    }
  }
  std::map<BlockSet, std::uint64_t> hits_by_kept = {{0, 0}};
  for (const TraceRequest& request : trace.requests) {
    const auto blocks = trace.shared_blocks(request);
    BlockSet path = 0;
    for (const TokenId block : blocks) path |= BlockSet{1} << block;
    std::map<BlockSet, std::uint64_t> next;
    for (const auto& [kept, hits_before] : hits_by_kept) {
      std::uint64_t hits = hits_before;
      for (std::size_t i = 0; i < request.matchable_blocks && (kept >> blocks[i] & 1) != 0; ++i) ++hits;
      const BlockSet all = kept | path;
      for (BlockSet part = all;; part = (part - 1) & all) {
        if (static_cast<std::size_t>(std::popcount(part)) <= capacity_blocks && keeps_whole_prefixes(part, ancestors)) {
          std::uint64_t& best = next[part];
          best = std::max(best, hits);
        }
        if (part == 0) break;
      }
    }
    hits_by_kept = std::move(next);
  }
  std::uint64_t best = 0;
  for (const auto& [kept, hits] : hits_by_kept) best = std::max(best, hits);
  return best;
}

TEST(OfflineOptimum, IsTheBestOfAllWaysOnTinyTraces) {
  std::uint64_t hits = 0;
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    const Trace trace = trace_of(random_trace(seed, {.requests = 7, .most_blocks = 4, .share_known = .75}));
    if (trace.distinct_blocks > 14) continue;
    const OfflineOptimum optimum(trace);
    for (std::size_t capacity = 0; capacity <= 5; ++capacity) {
      const std::uint64_t best = best_of_all_ways(trace, capacity);
      EXPECT_EQ(optimum.hit_blocks(capacity), best) << "seed " << seed << ", capacity " << capacity;
      hits += best;
    }
  }
  EXPECT_GT(hits, 1000u) << "the traces leave nothing to find";
}

TEST(OfflineOptimum, BoundsAllWaysWhereRequestsLeaveOutputs) {
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    const Trace trace =
        trace_of(random_trace(seed, {.requests = 6, .most_blocks = 4, .share_known = .8, .recorded_by_tiercel = true}));
    if (trace.distinct_blocks > 14) continue;
    const OfflineOptimum optimum(trace);
    for (std::size_t capacity = 0; capacity <= 5; ++capacity) {
      EXPECT_GE(optimum.hit_blocks(capacity), best_of_all_ways(trace, capacity)) << seed << ", " << capacity;
    }
    EXPECT_EQ(optimum.hit_blocks(100), best_of_all_ways(trace, 100)) << seed;
  }
}

TEST(OfflineOptimum, NoPolicyFindsMore) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    const Trace trace = trace_of(random_trace(seed, {.requests = 400, .recorded_by_tiercel = seed % 2 == 1}));
    const OfflineOptimum optimum(trace);
    for (const std::size_t capacity : {1, 3, 10, 40, 150}) {
      const std::uint64_t most = optimum.hit_blocks(capacity);
      for (const EvictionPolicyFactory& policy : {lru(), lfu(), adaptive()}) {
        for (const std::size_t queued : {0, 20}) {
          const auto result =
              replay(trace, {.eviction = policy, .capacity_blocks = capacity, .queued_requests = queued});
          ASSERT_TRUE(result.ok()) << result.status().to_string();
          EXPECT_LE(result->hit_blocks, most) << "seed " << seed << ", capacity " << capacity;
        }
      }
    }
  }
}

TEST(OfflineOptimum, AnUnboundedCacheFindsAllThatCameBefore) {
  const Trace trace = trace_of(random_trace(3, {.requests = 500}));
  const OfflineOptimum optimum(trace);
  const auto all = replay(trace, {.eviction = lru(), .capacity_blocks = trace.distinct_blocks});
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->evictions, 0u);
  EXPECT_DOUBLE_EQ(all->hit_rate(), optimum.unbounded_hit_rate());
  EXPECT_GT(optimum.unbounded_hit_rate(), .2);
}

TEST(OfflineOptimum, AnIdAfterOtherBlocksIsAnotherBlock) {
  // 3 stands behind 1, then behind 2: not a sound trace, and not the same content for the cache.
  const Trace trace = trace_of(R"({"input_length":1024,"hash_ids":[1,3]})"
                               "\n"
                               R"({"input_length":1024,"hash_ids":[2,3]})"
                               "\n");
  EXPECT_EQ(OfflineOptimum(trace).unbounded_hit_rate(), 0);
}

}  // namespace
}  // namespace tiercel
