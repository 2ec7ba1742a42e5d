// Steps of ranks on emulated GPUs whose blocks are still on their way there, to each rank its part.
#include <cstring>

#include "tests/device/rank_followers.h"

namespace tiercel {
namespace {

// Prompt tokens whose block is loaded, and those computed over it.
constexpr std::size_t kLoaded = 16, kTokens = 21;
constexpr std::uint32_t kRanks = 2;

struct LoadedRanks {
  LoadedRanks()
      : followers(kRanks),
        tokens(draw_tokens(8, kTokens, 50)),
        model(std::in_place, shared_model(), Compute::Fast, 24, KvCacheOptions(), false, false, followers.loading()) {
    followers.begin(*model);
    lease = model->cache->admit(tokens, {.max_tokens = kTokens, .max_matched_tokens = 0}).value();
    model->compute(lease, Tokens(tokens.begin(), tokens.begin() + kLoaded), 16, Arithmetic::Prefill);
    EXPECT_TRUE(lease.grow(kTokens).ok());
    // The other rank's copies wait for its step: it has what this one is told by.
    compute(kLoaded, kTokens, Arithmetic::Prefill);
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      const BlockMemory& memory = followers.memory(rank);
      parts[rank] = memory.allocate_host(memory.stride());
      others[rank] = memory.allocate_host(memory.stride());
      std::memset(others[rank].get(), 0x3c, memory.stride());
      EXPECT_TRUE(memory.save(block(), memory.stride(), parts[rank].get()).ok());
    }
  }
  ~LoadedRanks() { end(); }

  std::span<const BlockId> block() const { return lease.block_table().first(1); }
  // Computes tokens [first, last) in one step. Empty: it failed.
  Floats compute(std::size_t first, std::size_t last, Arithmetic arithmetic) {
    const auto logits = model->step_of(lease, tokens, first, last, arithmetic);
    failure = logits.status();
    return logits.ok() ? *logits : Floats();
  }
  // Other bytes.
  void spoil() const {
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      const BlockMemory& memory = followers.memory(rank);
      EXPECT_TRUE(memory.load(others[rank].get(), memory.stride(), block()).ok());
    }
  }
  // The right ones, on their way.
  bool begin_loads() {
    bool all_begun = true;
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      const BlockMemory& memory = followers.memory(rank);
      const auto begun = memory.begin_load(parts[rank].get(), memory.stride(), block());
      loads[rank] = begun.ok() ? *begun : 0;
      all_begun &= begun.ok();
    }
    return all_begun;
  }
  const std::vector<Status>& end() {
    for (std::uint32_t rank = 0; rank < kRanks; ++rank)
      static_cast<void>(followers.memory(rank).finish_load(loads[rank]));
    lease = {};
    model.reset();
    return followers.join();
  }

  RankFollowers followers;
  std::shared_ptr<std::byte> parts[kRanks], others[kRanks];  // host memory
  std::uint64_t loads[kRanks] = {};
  Tokens tokens;
  std::optional<DeviceModel> model;
  Lease lease;
  Status failure;
};

class DeviceRanksLoads : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceRanksLoads, testing::Range(0, kSanitized ? 3 : 12));
class DeviceRanksLostLoads : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceRanksLostLoads, testing::Range(0, kSanitized ? 3 : 6));

TEST_P(DeviceRanksLoads, AStepBeginsWhileItsBlocksAreOnTheirWay) {
  LoadedRanks loaded;
  const Floats prompt = loaded.compute(kLoaded, kTokens - 1, Arithmetic::Prefill);
  const Floats decoded = loaded.compute(kTokens - 1, kTokens, Arithmetic::Decode);
  loaded.spoil();
  ASSERT_TRUE(loaded.begin_loads());
  EXPECT_EQ(loaded.compute(kLoaded, kTokens - 1, Arithmetic::Prefill), prompt);
  loaded.spoil();
  ASSERT_TRUE(loaded.begin_loads());
  EXPECT_EQ(loaded.compute(kTokens - 1, kTokens, Arithmetic::Decode), decoded);
  for (const Status& status : loaded.end()) EXPECT_TRUE(status.ok()) << status.to_string();
}

// Whichever rank's copy fails, and whichever layer's.
TEST_P(DeviceRanksLostLoads, ALoadThatFailsOnOneRankEndsAll) {
  const int broken = GetParam() % 2, nth = 1 + GetParam() / 2 % 2;
  LoadedRanks loaded;
  loaded.followers.set_timeout_ms(1000);
  loaded.spoil();
  cuemu::fail_operation(nth, cudaErrorIllegalAddress, broken);
  static_cast<void>(loaded.begin_loads());
  loaded.compute(kLoaded, kTokens, Arithmetic::Prefill);
  EXPECT_TRUE(loaded.failure.code() == StatusCode::Unavailable || loaded.failure.code() == StatusCode::DeadlineExceeded)
      << loaded.failure.to_string();
  loaded.compute(kLoaded, kTokens, Arithmetic::Prefill);
  EXPECT_FALSE(loaded.failure.ok());
  const BlockMemory& memory = loaded.followers.memory(static_cast<std::uint32_t>(broken));
  EXPECT_FALSE(memory.save(loaded.block(), memory.stride(), loaded.parts[broken].get()).ok())
      << "nothing goes to a tier";
  for (const Status& status : loaded.end()) EXPECT_FALSE(status.ok());
}

}  // namespace
}  // namespace tiercel
