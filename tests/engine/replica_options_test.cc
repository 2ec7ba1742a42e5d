#include "engine/replica_options.h"

#include <gtest/gtest.h>

#include "base/cpu_affinity.h"

namespace tiercel {
namespace {

TEST(ReplicaOptions, ThreadsAndCoresAreDividedEvenly) {
  const std::uint32_t cores = usable_cores();
  const auto alone = threads_of_replicas({.model = "m"});
  ASSERT_EQ(alone.size(), 1u);
  EXPECT_EQ(alone[0].threads, cores);
  EXPECT_TRUE(alone[0].cpus.empty());
  const auto five = threads_of_replicas({.model = "m", .replicas = 3, .threads = 5});
  ASSERT_EQ(five.size(), 3u);
  EXPECT_EQ(five[0].threads, 2u);
  EXPECT_EQ(five[1].threads, 2u);
  EXPECT_EQ(five[2].threads, 1u);
  for (const ReplicaThreads& one : threads_of_replicas({.model = "m", .replicas = 64, .threads = 2})) {
    EXPECT_EQ(one.threads, 1u);
    EXPECT_FALSE(one.cpus.empty());
  }
  std::size_t all = 0;
  for (const ReplicaThreads& one : threads_of_replicas({.model = "m", .replicas = cores})) {
    EXPECT_EQ(one.threads, one.cpus.size());
    all += one.cpus.size();
  }
  EXPECT_EQ(all, cores);
  const KvCacheOptions cache = cache_of_replica(
      {.capacity_bytes = 1000, .prefault_bytes = 100, .tenant_quota_bytes = 300, .memory_tier_bytes = 7}, 4);
  EXPECT_EQ(cache.capacity_bytes, 250u);
  EXPECT_EQ(cache.prefault_bytes, 25u);
  EXPECT_EQ(cache.tenant_quota_bytes, 75u);
  EXPECT_EQ(cache.memory_tier_bytes, 7u);
  EXPECT_EQ(cache_of_replica({.tenant_quota_bytes = SIZE_MAX}, 4).tenant_quota_bytes, SIZE_MAX);
}

}  // namespace
}  // namespace tiercel
