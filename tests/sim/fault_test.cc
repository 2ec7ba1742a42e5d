// Memory runs out within calls of the KV cache: no exception leaves it, what fails has changed nothing, and nothing is
// lost. Has a program of its own, for the operator new below.
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include <gtest/gtest.h>

#include "tests/sim/allocation_faults.h"
#include "tests/sim/history_runner.h"
#include "tests/sim/simulator.h"

namespace {

// Where the chosen allocation is reached, it fails.
void* allocate(std::size_t bytes, std::size_t alignment) {
  auto& faults = tiercel::sim::allocation_faults;
  if (faults.allocations_left > 0 && --faults.allocations_left == 0) {
    faults.fired = true;
    throw std::bad_alloc();
  }
  void* memory = alignment == 0 ? std::malloc(bytes == 0 ? 1 : bytes)
                                : std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace tiercel::sim {
namespace {

const Configuration kWithFaults{
    .name = "Faults",
    .windows = true,
    .quotas = true,
    .lifetimes = true,
    .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Adaptive},
    .faults = true,
    .reaches = {Seen::Fault, Seen::FaultSeen, Seen::Hit, Seen::Fork, Seen::PinMade, Seen::Eviction}};

TEST(SimulationWithFaults, NoMemoryChangesNothing) { run_histories(kWithFaults, 1500, false); }

KvCacheOptions options_of(std::size_t blocks, const KvLayout& layout) {
  return {.capacity_bytes = blocks * BlockArena::stride_of(layout.block_bytes()),
          .eviction = lru(),
          .tenant_quota_bytes = SIZE_MAX};
}

TEST(SimulationWithFaults, OpenIsUnavailableUntilThereIsMemory) {
  const KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 4, .dtype = DType::F16};
  const KvGroup groups[] = {{}, {.window_tokens = 6}};
  std::uint64_t failed = 0;
  for (std::uint64_t nth = 1;; ++nth) {
    const KvCacheOptions options = options_of(16, layout);
    KvCacheSeams seams;
    allocation_faults = {.allocations_left = nth};
    try {
      const auto opened = KvCacheState::open(options, layout, {}, groups, std::move(seams));
      const bool fired = allocation_faults.fired;
      allocation_faults = {};
      ASSERT_EQ(opened.ok(), !fired) << "allocation " << nth;
      if (!fired) break;
      EXPECT_EQ(opened.status().code(), StatusCode::Unavailable);
      ++failed;
    } catch (const std::bad_alloc&) {
      allocation_faults = {};
      FAIL() << "std::bad_alloc left open() at allocation " << nth;
    }
  }
  EXPECT_GT(failed, 10u);
}

// A tenant is known as long as it has a lease, blocks or a quota; metadata_bytes() tells.
TEST(SimulationWithFaults, ARefusalForgetsItsTenant) {
  const KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 4, .dtype = DType::F16};
  auto cache = KvCacheState::open(options_of(4, layout), layout, {}, {}).value();
  const std::string tenants[] = {std::string(1000, 'a'), std::string(1000, 'b')};
  for (const std::string& tenant : tenants) {
    ASSERT_TRUE(cache.set_tenant_quota(tenant, 2 * BlockArena::stride_of(layout.block_bytes())).ok());
  }
  const std::size_t before = cache.stats().metadata_bytes;
  for (const std::size_t max_tokens : {8u, 12u}) {
    for (std::uint64_t nth = 1; nth < 20; ++nth) {
      const Lease first = cache.admit({}, {.max_tokens = 8, .scope = {.salt = tenants[0]}}).value();
      allocation_faults = {.allocations_left = nth};
      try {
        EXPECT_FALSE(cache.admit({}, {.max_tokens = max_tokens, .scope = {.salt = tenants[0]}}).ok());
      } catch (const std::bad_alloc&) {
        ADD_FAILURE() << "std::bad_alloc left admit() at allocation " << nth;
      }
      allocation_faults = {};
    }
  }
  for (const std::string& tenant : tenants) ASSERT_TRUE(cache.set_tenant_quota(tenant, 0).ok());
  EXPECT_LT(cache.stats().metadata_bytes + 2000, before + 200) << "both names should be gone";
}

}  // namespace
}  // namespace tiercel::sim
