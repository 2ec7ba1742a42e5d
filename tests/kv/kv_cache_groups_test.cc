// Models whose layers do not all need every token: a full group beside groups with a window.
#include <vector>

#include <gtest/gtest.h>

#include "tests/kv/kv_cache_fixture.h"

namespace tiercel {
namespace {

class KvCacheGroups : public KvCacheFixture {
 protected:
  // One full group and one with a window of 6 tokens: at a boundary it needs the two blocks before it.
  static constexpr KvGroup kGroups[] = {{}, {.window_tokens = 6}};
};

TEST_F(KvCacheGroups, TheFirstIsFull) {
  const KvGroup wrong[] = {{.window_tokens = 6}};
  const KvGroup tiny[] = {{}, {.window_tokens = 1}};
  EXPECT_EQ(KvCache::open({.capacity_bytes = bytes(8)}, kLayout, {}, wrong).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(KvCache::open({.capacity_bytes = bytes(8)}, kLayout, {}, tiny).status().code(),
            StatusCode::InvalidArgument);
}

TEST_F(KvCacheGroups, BlocksOutOfReachAreGivenUp) {
  auto cache = open(32, {}, kGroups);
  Lease lease = run(cache, numbers(0, 16), {.max_tokens = 24});
  ASSERT_EQ(lease.block_table(1).size(), 4u);
  EXPECT_EQ(lease.block_table(1)[0], kNoBlock);
  EXPECT_EQ(lease.block_table(1)[1], kNoBlock);
  EXPECT_NE(lease.block_table(1)[2], kNoBlock) << "token 16 reads back to token 11";
  EXPECT_NE(lease.block_table(1)[3], kNoBlock);
  EXPECT_EQ(cache.stats().leased_blocks, 4u + 2u);
  EXPECT_EQ(cache.stats().cached_blocks, 2u) << "given up by the lease, of use to others";
  compute(cache, lease, numbers(0, 17));
  EXPECT_EQ(lease.block_table(1)[2], kNoBlock) << "token 17 reads back to token 12, block 3";
  lease = Lease();
  expect_all_returned(cache);
}

TEST_F(KvCacheGroups, AHitIsValidInAllGroups) {
  auto cache = open(32, {}, kGroups);
  const Tokens prompt = numbers(0, 20);
  run(cache, prompt);
  Lease lease = admit(cache, prompt, {.max_tokens = 24});
  EXPECT_EQ(lease.matched_tokens(), 20u);
  EXPECT_EQ(lease.block_table(1)[2], kNoBlock);
  EXPECT_NE(lease.block_table(1)[3], kNoBlock);
  EXPECT_EQ(lease.block_table(0).size(), lease.block_table(1).size());
  lease = Lease();

  // Squeezed, the cache gives up window blocks and leaves; a hit then ends where both are there.
  std::size_t shorter = 0;
  for (std::size_t room = 4; room <= 32; room += 2) {
    auto squeezed = open(32, {}, kGroups);
    run(squeezed, prompt);
    Lease other = admit(squeezed, numbers(500, 4), {.max_tokens = room / 2 * 4});
    ASSERT_TRUE(other.grow(room / 2 * 4).ok());
    const std::size_t hit = found(squeezed, prompt);
    shorter += hit < 20;
    const Lease again = admit(squeezed, Tokens(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(hit)));
    EXPECT_EQ(again.matched_tokens(), hit);
    const std::size_t blocks = hit / 4;
    for (std::size_t i = blocks < 2 ? 0 : blocks - 2; i < blocks; ++i) EXPECT_NE(again.block_table(1)[i], kNoBlock);
    EXPECT_EQ(KvCacheState::of(squeezed).audit(), "");
  }
  EXPECT_GT(shorter, 0u);
}

TEST_F(KvCacheGroups, EqualSequencesShareTheirWindowsToo) {
  auto cache = open(64, {}, kGroups);
  const Tokens prompt = numbers(0, 8);
  Lease a = admit(cache, prompt), b = admit(cache, prompt);
  compute(cache, a, prompt);
  compute(cache, b, prompt);
  EXPECT_EQ(a.block_table(0)[1], b.block_table(0)[1]);
  EXPECT_EQ(a.block_table(1)[1], b.block_table(1)[1]);
  EXPECT_EQ(cache.stats().leased_blocks, 4u);
  Lease c = a.fork(16).value();
  compute(cache, c, prompt + numbers(90, 8));
  ASSERT_TRUE(cache.pin(prompt).ok());
  EXPECT_EQ(cache.stats().pinned_blocks, 4u);
  for (Lease* lease : {&a, &b, &c}) *lease = Lease();
  cache.unpin(prompt);
  expect_all_returned(cache);
}

TEST_F(KvCacheGroups, AWaitingPromptMovesOnOverWhatLiesBehindAGap) {
  auto cache = open(16, {}, kGroups);
  run(cache, numbers(0, 16));
  // Takes all that is free, and the two window blocks that nobody used last.
  Lease other = admit(cache, numbers(500, 4), {.max_tokens = 20});
  ASSERT_TRUE(other.grow(20).ok());
  other = Lease();
  const Tokens prompt = numbers(0, 12);
  ASSERT_EQ(found(cache, prompt), 0u) << "the window block of its second block is gone";
  ASSERT_EQ(found(cache, numbers(0, 16)), 16u);
  const ExpectedPrompt expected = cache.expect(prompt, {});
  EXPECT_EQ(expected.cached_tokens(), 0u);
  run(cache, numbers(0, 8));
  EXPECT_EQ(found(cache, prompt), 12u);
  EXPECT_EQ(expected.cached_tokens(), 12u);
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
}

TEST_F(KvCacheGroups, AWindowBlockLivesAsLongAsItsFirstUseSays) {
  auto cache = open(32, {}, kGroups);
  const Lease lease = run(cache, numbers(0, 16));
  const Tokens given_up = numbers(0, 8);
  EXPECT_EQ(cache.warm(given_up, {.retention = {.ttl_ms = 10}}), 8u) << "the first use of its window blocks";
  EXPECT_EQ(found(cache, given_up), 8u);
  now_ms += 10;
  EXPECT_EQ(found(cache, given_up), 0u);
}

TEST_F(KvCacheGroups, AStateSnapshotIsAWindowOfTwo) {
  const KvGroup groups[] = {{}, {.window_tokens = 2}};
  auto cache = open(32, {}, groups);
  Lease lease = run(cache, numbers(0, 16));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(lease.block_table(1)[i], kNoBlock);
  EXPECT_NE(lease.block_table(1)[3], kNoBlock);
}

}  // namespace
}  // namespace tiercel
