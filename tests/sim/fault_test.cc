// Memory runs out within calls of the KV cache: no exception leaves it, what fails has changed nothing, and nothing is
// lost. Has a program of its own, for its operator new (allocation_faults.cc).
#include <new>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "tests/sim/allocation_faults.h"
#include "tests/sim/history_runner.h"
#include "tests/sim/simulator.h"

namespace tiercel::sim {
namespace {

constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 4, .dtype = DType::F16};
constexpr std::size_t kStride = BlockMemory::stride_of(kLayout.block_bytes());

KvCacheOptions options_of(std::size_t blocks) {
  return {.capacity_bytes = blocks * kStride, .eviction = lru(), .tenant_quota_bytes = SIZE_MAX};
}

TEST(SimulationWithFaults, NoMemoryChangesNothing) {
  const Configuration configuration{
      .name = "Faults",
      .windows = true,
      .quotas = true,
      .lifetimes = true,
      .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Adaptive},
      .faults = true,
      .reaches = {Seen::Fault, Seen::FaultSeen, Seen::Hit, Seen::Fork, Seen::PinMade, Seen::Eviction}};
  run_histories(configuration, 30'000, false);
}

// Whether open() met the fault.
bool opens_with(const AllocationFaults& faults) {
  const KvGroup groups[] = {{}, {.window_tokens = 6}};
  const KvCacheOptions options = options_of(16);
  KvCacheSeams seams;
  allocation_faults = faults;
  try {
    const auto opened = KvCacheState::open(options, kLayout, {}, groups, std::move(seams));
    const bool fired = std::exchange(allocation_faults, {}).fired;
    EXPECT_EQ(opened.status().code(), fired ? StatusCode::Unavailable : StatusCode::Ok);
    return fired;
  } catch (const std::bad_alloc&) {
    allocation_faults = {};
    ADD_FAILURE() << "std::bad_alloc left open() at allocation " << faults.allocations_left;
    return false;
  }
}

TEST(SimulationWithFaults, OpenIsUnavailableUntilThereIsMemory) {
  for (const bool last : {false, true}) {
    std::uint64_t nth = 1;
    while (opens_with({.allocations_left = nth, .last = last})) ++nth;
    EXPECT_GT(nth, 10u);
  }
}

// A tenant is known as long as it has a lease, blocks or a quota; metadata_bytes() tells.
TEST(SimulationWithFaults, ARefusalForgetsItsTenant) {
  auto cache = KvCacheState::open(options_of(4), kLayout, {}, {}).value();
  const std::string tenant(1000, 'a');
  ASSERT_TRUE(cache.set_tenant_quota(tenant, 2 * kStride).ok());
  const std::size_t known = cache.stats().metadata_bytes;
  for (const std::size_t max_tokens : {8u, 12u}) {  // refused for a time, and for ever
    for (std::uint64_t nth = 1; nth < 20; ++nth) {
      const Lease first = cache.admit({}, {.max_tokens = 8, .scope = {.salt = tenant}}).value();
      allocation_faults = {.allocations_left = nth};
      try {
        EXPECT_FALSE(cache.admit({}, {.max_tokens = max_tokens, .scope = {.salt = tenant}}).ok());
      } catch (const std::bad_alloc&) {
        ADD_FAILURE() << "std::bad_alloc left admit() at allocation " << nth;
      }
      allocation_faults = {};
    }
  }
  for (std::uint64_t nth = 1; nth < 20; ++nth) {  // for want of memory
    allocation_faults = {.allocations_left = nth};
    const auto admitted = cache.admit({}, {.max_tokens = 8, .scope = {.salt = tenant}});
    EXPECT_EQ(admitted.ok(), !std::exchange(allocation_faults, {}).fired);
  }
  ASSERT_TRUE(cache.set_tenant_quota(tenant, 0).ok());
  EXPECT_LT(cache.stats().metadata_bytes, known);
}

}  // namespace
}  // namespace tiercel::sim
