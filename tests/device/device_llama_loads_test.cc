// Steps of a model on an emulated GPU whose blocks are still on their way there.
#include <cstring>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/device/tiny_device_model.h"

namespace tiercel {
namespace {

// Prompt tokens whose blocks are loaded, and those computed over them.
constexpr std::size_t kLoaded = 16, kTokens = 21;

struct Loaded {
  explicit Loaded(std::uint64_t seed) : tokens(draw_tokens(8, kTokens, 50)) {
    cuemu::reset_device({.seed = seed});
    model.emplace(small_model(), Compute::Fast);
    lease = model->cache->admit(tokens, {.max_tokens = kTokens, .max_matched_tokens = 0}).value();
    model->compute(lease, Tokens(tokens.begin(), tokens.begin() + kLoaded), 16, Arithmetic::Prefill);
    EXPECT_TRUE(lease.grow(kTokens).ok());
    blocks.assign(lease.block_table().begin(), lease.block_table().begin() + 1);
    block_bytes = model->layout.block_bytes();
    host = model->memory->allocate_host(block_bytes);
    other = model->memory->allocate_host(block_bytes);
    std::memset(other.get(), 0x3c, block_bytes);
    EXPECT_TRUE(model->memory->save(blocks, block_bytes, host.get()).ok());
  }
  // Computes tokens [first, last), each a step of its own or all in one. Empty: a step failed.
  Floats compute(std::size_t first, std::size_t last, Arithmetic arithmetic) {
    const auto logits = model->step_of(lease, tokens, first, last, arithmetic);
    failure = logits.status();
    return logits.ok() ? *logits : Floats();
  }
  // Other bytes, and then the right ones on their way.
  Result<std::uint64_t> load_again() {
    TIERCEL_RETURN_IF_ERROR(model->memory->load(other.get(), block_bytes, blocks));
    return model->memory->begin_load(host.get(), block_bytes, blocks);
  }

  Tokens tokens;
  std::optional<DeviceModel> model;
  Lease lease;
  std::vector<BlockId> blocks;
  std::size_t block_bytes = 0;
  std::shared_ptr<std::byte> host, other;  // allocated before: freeing such memory waits for the GPU
  Status failure;
};

TEST(DeviceLlamaLoads, AStepBeginsWhileItsBlocksAreOnTheirWay) {
  for (std::uint64_t seed = 0; seed < (kSanitized ? 6 : 12); ++seed) {
    SCOPED_TRACE(seed);
    Loaded loaded(seed);
    const Floats prompt = loaded.compute(kLoaded, kTokens - 1, Arithmetic::Prefill);
    const Floats decoded = loaded.compute(kTokens - 1, kTokens, Arithmetic::Decode);
    ASSERT_TRUE(loaded.load_again().ok());
    EXPECT_EQ(loaded.compute(kLoaded, kTokens - 1, Arithmetic::Prefill), prompt);
    const int graphs = cuemu::device_counts().graph_launches;
    ASSERT_TRUE(loaded.load_again().ok());
    EXPECT_EQ(loaded.compute(kTokens - 1, kTokens, Arithmetic::Decode), decoded);
    EXPECT_EQ(cuemu::device_counts().graph_launches, graphs + 1);
  }
}

// A step that was given other blocks waits for nothing.
TEST(DeviceLlamaLoads, OthersDoNotWait) {
  Loaded loaded(2);  // at this seed nothing runs that is not waited for
  auto other = loaded.model->cache->admit(loaded.tokens, {.max_tokens = kTokens, .max_matched_tokens = 0}).value();
  const Tokens tokens(loaded.tokens.begin(), loaded.tokens.begin() + 20);
  const auto load = loaded.load_again();
  ASSERT_TRUE(load.ok());
  const int before = cuemu::device_counts().copies;
  loaded.model->compute(other, tokens, 20, Arithmetic::Prefill);
  EXPECT_EQ(cuemu::device_counts().copies - before, 2) << "what the step is told, and its logits";
  EXPECT_TRUE(loaded.model->memory->finish_load(*load).ok());
}

// Whenever a copy or a kernel fails, no step says that it succeeded over blocks that did not come.
TEST(DeviceLlamaLoads, ALoadThatFailsFailsTheStep) {
  int failures = 0;
  for (int nth = 1; nth <= (kSanitized ? 5 : 12); ++nth) {
    SCOPED_TRACE(nth);
    Loaded loaded(static_cast<std::uint64_t>(nth));
    const Floats expected = loaded.compute(kLoaded, kTokens, Arithmetic::Prefill);
    cuemu::fail_operation(nth, cudaErrorIllegalAddress);
    const auto load = loaded.load_again();
    const Floats again = loaded.compute(kLoaded, kTokens, Arithmetic::Prefill);
    if (loaded.failure.ok()) {
      EXPECT_EQ(again, expected);
      continue;
    }
    ++failures;
    EXPECT_EQ(loaded.failure.code(), StatusCode::Unavailable) << loaded.failure.to_string();
    loaded.compute(kLoaded, kTokens, Arithmetic::Prefill);
    EXPECT_FALSE(loaded.failure.ok());
    EXPECT_FALSE(loaded.model->memory->save(loaded.blocks, loaded.block_bytes, loaded.host.get()).ok())
        << "nothing goes to a tier";
  }
  EXPECT_GT(failures, 0);
}

}  // namespace
}  // namespace tiercel
