// What several sequences of one prefix have to do with each other: forks, blocks in flight, waiting prompts, tenants.
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kv/kv_cache_fixture.h"

namespace tiercel {
namespace {

class KvCacheFork : public KvCacheFixture {};
class KvCacheExpect : public KvCacheFixture {};
class KvCacheTenants : public KvCacheFixture {};

TEST_F(KvCacheFork, SharesFullBlocksAndCopiesTheBegunOne) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 10);
  Lease first = run(cache, prompt, {.max_tokens = 20});
  Lease second = first.fork(20).value();
  EXPECT_EQ(second.matched_tokens(), 10u);
  EXPECT_EQ(second.committed_tokens(), 10u);
  ASSERT_EQ(second.block_table().size(), 3u);
  EXPECT_EQ(first.block_table()[0], second.block_table()[0]);
  EXPECT_EQ(first.block_table()[1], second.block_table()[1]);
  EXPECT_NE(first.block_table()[2], second.block_table()[2]);
  expect_bytes(cache, second, prompt);
  // Each goes its own way.
  compute(cache, first, prompt + numbers(100, 10));
  compute(cache, second, prompt + numbers(200, 10));
  expect_bytes(cache, first, prompt + numbers(100, 10));
  expect_bytes(cache, second, prompt + numbers(200, 10));
  EXPECT_EQ(cache.stats().leased_blocks, 5u + 3u);
  first = Lease();
  EXPECT_EQ(found(cache, prompt + numbers(200, 10)), 20u);
  expect_bytes(cache, second, prompt + numbers(200, 10));
  second = Lease();
  expect_all_returned(cache);
}

TEST_F(KvCacheFork, OfAPrivateSequenceStaysPrivate) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 8);
  Lease first = admit(cache, prompt, {.max_tokens = 12});
  ASSERT_TRUE(first.grow(8).ok());
  first.commit(prompt, false);
  Lease second = first.fork(12).value();
  EXPECT_EQ(second.block_table()[1], first.block_table()[1]);
  first = Lease();
  EXPECT_EQ(cache.stats().leased_blocks, 2u) << "the other one still holds them";
  compute(cache, second, prompt + numbers(50, 4));
  EXPECT_EQ(found(cache, prompt), 0u);
  second = Lease();
  EXPECT_EQ(cache.stats().free_blocks, 16u);
  expect_all_returned(cache);
}

TEST_F(KvCacheFork, AsksForItsRoomAndLeavesTheSourceAlone) {
  auto cache = open(5);
  const Tokens prompt = numbers(0, 10);
  Lease first = run(cache, prompt, {.max_tokens = 16});
  EXPECT_EQ(first.fork(9).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(first.fork(100).status().code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(first.fork(16).status().code(), StatusCode::Unavailable) << "3 held, 1 promised, 1 left for 2";
  EXPECT_TRUE(first.fork(12).ok());
  EXPECT_EQ(Lease().fork(4).status().code(), StatusCode::InvalidArgument);
  compute(cache, first, numbers(0, 16));
  expect_bytes(cache, first, numbers(0, 16));
  first = Lease();
  expect_all_returned(cache);
}

TEST_F(KvCacheFork, NoPartOfABlockIsCopiedThatMayNotBe) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 12);
  Lease lease = admit(cache, prompt);
  ASSERT_TRUE(lease.grow(12).ok());
  lease.commit(std::span(prompt).first(5));
  lease.commit(std::span(prompt).subspan(5, 1), true, /*copyable=*/false);
  lease.commit(std::span(prompt).subspan(6));
  EXPECT_EQ(found(cache, numbers(0, 3) + numbers(90, 5)), 3u);
  EXPECT_EQ(found(cache, numbers(0, 7) + numbers(90, 5)), 4u) << "one token of the second block may not be copied";
  EXPECT_EQ(found(cache, numbers(0, 8)), 8u) << "as a whole it may be shared";
  EXPECT_EQ(found(cache, numbers(0, 11)), 11u) << "it says nothing of the block after it";
}

TEST_F(KvCacheExpect, KnowsWhatIsMissingIfOthersEnded) {
  auto cache = open(10);
  const Tokens prompt = numbers(0, 16);
  const Lease first = run(cache, prompt, {.max_tokens = 24});  // four blocks and two promised
  const Lease fork = first.fork(20).value();                   // the same four and one promised
  const auto missing = [&](const ExpectedPrompt& expected, std::size_t blocks, std::vector<const Lease*> ended) {
    return cache.missing_blocks(expected, 4 * blocks, ended);
  };
  const ExpectedPrompt other, same = cache.expect(prompt, {});
  EXPECT_EQ(missing(other, 3, {}), 0u);
  EXPECT_EQ(missing(other, 7, {}), 4u);
  EXPECT_EQ(missing(other, 7, {&first}), 2u) << "it gives back what it was promised: the other one holds the rest";
  EXPECT_EQ(missing(other, 7, {&fork}), 3u);
  EXPECT_EQ(missing(other, 10, {&first, &fork}), 0u) << "together they give what they share, once";
  EXPECT_EQ(missing(other, 11, {&first, &fork}), 1u);
  EXPECT_EQ(missing(same, 7, {}), 0u) << "of what is held it needs nothing more";
  EXPECT_EQ(missing(same, 9, {}), 2u);
  EXPECT_EQ(missing(same, 9, {&fork}), 1u);
  EXPECT_EQ(missing(same, 10, {&first, &fork}), 0u) << "what nobody else holds it takes from the cached ones";
  EXPECT_EQ(missing(same, 11, {&first, &fork}), 1u);
  EXPECT_TRUE(cache.admit(prompt, {.max_tokens = 28}).ok());
  EXPECT_FALSE(cache.admit(prompt, {.max_tokens = 32}).ok());
}

TEST_F(KvCacheExpect, SeesAPrefixInFlightUntilItIsThere) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 12);
  const ExpectedPrompt waiting = cache.expect(prompt, {});
  EXPECT_FALSE(waiting.in_flight()) << "nobody computes it";
  Lease computing = admit(cache, prompt);
  EXPECT_TRUE(waiting.in_flight());
  EXPECT_EQ(waiting.cached_tokens(), 0u);
  compute(cache, computing, std::span(prompt).first(8));
  EXPECT_EQ(waiting.cached_tokens(), 8u);
  EXPECT_TRUE(waiting.in_flight());
  compute(cache, computing, prompt);
  EXPECT_EQ(waiting.cached_tokens(), 12u);
  EXPECT_FALSE(waiting.in_flight());
}

TEST_F(KvCacheExpect, FlightEndsWithItsLeaseOrWhereItTurnsOff) {
  auto cache = open(32);
  const Tokens prompt = numbers(0, 12);
  const ExpectedPrompt waiting = cache.expect(prompt, {});
  {
    const Lease cancelled = admit(cache, prompt);
    EXPECT_TRUE(waiting.in_flight());
  }
  EXPECT_FALSE(waiting.in_flight());
  Lease other = admit(cache, numbers(0, 4) + numbers(70, 8));
  EXPECT_TRUE(waiting.in_flight()) << "the first block is the same";
  compute(cache, other, numbers(0, 4));
  EXPECT_EQ(waiting.cached_tokens(), 4u);
  EXPECT_FALSE(waiting.in_flight()) << "the second is another";

  Lease kept_private = admit(cache, prompt);
  EXPECT_TRUE(waiting.in_flight());
  ASSERT_TRUE(kept_private.grow(8).ok());
  kept_private.commit(std::span(prompt).subspan(4, 4), false);
  EXPECT_FALSE(waiting.in_flight());

  const Lease shares_little = admit(cache, prompt, {.max_shared_tokens = 7});
  EXPECT_FALSE(waiting.in_flight()) << "its second block is not to be shared";
  // The runner may commit other tokens than it announced.
  Lease unfaithful = admit(cache, prompt, {.max_tokens = 12});
  EXPECT_TRUE(waiting.in_flight());
  compute(cache, unfaithful, numbers(0, 4) + numbers(90, 8));
  EXPECT_FALSE(waiting.in_flight());
}

TEST_F(KvCacheExpect, OtherTenantsFlightsAreInvisible) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 12);
  const ExpectedPrompt waiting = cache.expect(prompt, {.scope = {.salt = "b"}});
  Lease computing = admit(cache, prompt, {.scope = {.salt = "a"}});
  EXPECT_FALSE(waiting.in_flight());
  compute(cache, computing, prompt, "a");
  EXPECT_EQ(waiting.cached_tokens(), 0u);
}

TEST_F(KvCacheExpect, ExpectedBlocksGoLast) {
  auto cache = open(6);
  const Tokens wanted = numbers(0, 8), other = numbers(100, 8);
  run(cache, wanted);
  run(cache, other);
  {
    const ExpectedPrompt waiting = cache.expect(wanted, {});
    run(cache, numbers(200, 16));  // needs the room of `other`, although `wanted` is older
    EXPECT_EQ(found(cache, wanted), 8u);
    EXPECT_EQ(found(cache, other), 0u);
    EXPECT_EQ(waiting.cached_tokens(), 8u);
    run(cache, numbers(300, 24));  // needs all
    EXPECT_EQ(waiting.cached_tokens(), 0u);
  }
  // A prompt that came after the wish counts as well; after the wish ended it does not.
  run(cache, other);
  {
    const ExpectedPrompt waiting = cache.expect(wanted, {});
    run(cache, wanted);
    run(cache, other);
    EXPECT_EQ(waiting.cached_tokens(), 8u);
    run(cache, numbers(400, 16));
    EXPECT_EQ(found(cache, wanted), 8u);
  }
  run(cache, numbers(500, 16));
  EXPECT_EQ(found(cache, wanted), 0u);
  expect_all_returned(cache);
}

TEST_F(KvCacheExpect, MayOutliveTheCache) {
  const Tokens prompt = numbers(0, 12);
  std::optional<KvCache> cache = open(16);
  const ExpectedPrompt waiting = cache->expect(prompt, {});
  run(*cache, prompt);
  cache.reset();
  EXPECT_EQ(waiting.cached_tokens(), 12u);
  EXPECT_EQ(ExpectedPrompt().cached_tokens(), 0u);
  EXPECT_FALSE(ExpectedPrompt().in_flight());
}

// A lookup under another salt does the same work whether or not the block is there: counted in keys made and blocks
// compared, which is all it does.
std::uint64_t keys_made = 0;
ContentKey counting_key(const ContentKey& parent, std::span<const std::byte> content) {
  ++keys_made;
  return xxh3_key(parent, content);
}

TEST_F(KvCacheTenants, CannotTimeEachOthersBlocks) {
  const auto work_of_stranger = [&](bool victim_cached) {
    auto cache = KvCacheState::open({.capacity_bytes = bytes(64), .eviction = lru()}, kLayout, {}, {},
                                    {.key_function = counting_key})
                     .value();
    const Tokens secret = numbers(0, 40);
    run(cache, victim_cached ? secret : numbers(500, 40), {.scope = {.salt = "victim"}});
    run(cache, numbers(900, 8), {.scope = {.salt = "stranger"}});
    keys_made = 0;
    EXPECT_EQ(found(cache, secret, "stranger"), 0u);
    EXPECT_EQ(found(cache, secret, "never seen"), 0u);
    EXPECT_EQ(cache.stats().compare_mismatches, 0u);
    return keys_made;
  };
  EXPECT_EQ(work_of_stranger(true), work_of_stranger(false));
}

TEST_F(KvCacheTenants, StayWithinTheirQuota) {
  auto cache = open(16, {.tenant_quota_bytes = bytes(4)});
  auto& state = KvCacheState::of(cache);
  const PrefixScope greedy{.salt = "greedy"};
  run(cache, numbers(0, 12), {.scope = {.salt = "modest"}});
  for (TokenId i = 0; i < 10; ++i) run(cache, numbers(100 * i, 12), {.scope = greedy});
  EXPECT_LE(state.tenant_blocks("greedy"), 4u);
  EXPECT_EQ(found(cache, numbers(900, 12), "greedy"), 12u) << "it evicts its own oldest";
  EXPECT_EQ(found(cache, numbers(0, 12), "modest"), 12u);
  EXPECT_EQ(cache.stats().free_blocks, 16u - 3u - 4u) << "free blocks are left, and are not its";

  // All at once is refused; beside other leases it has to wait; others are not held up.
  EXPECT_EQ(cache.admit(numbers(0, 17), {.max_tokens = 17, .scope = greedy}).status().code(),
            StatusCode::ResourceExhausted);
  const Lease running = admit(cache, numbers(0, 8), {.scope = greedy});
  EXPECT_EQ(cache.admit(numbers(50, 12), {.max_tokens = 12, .scope = greedy}).status().code(), StatusCode::Rejected);
  EXPECT_TRUE(cache.admit(numbers(50, 12), {.max_tokens = 12, .scope = {.salt = "modest"}}).ok());
  EXPECT_TRUE(cache.admit(numbers(50, 8), {.max_tokens = 8, .scope = greedy}).ok());
}

TEST_F(KvCacheTenants, QuotasOfTheirOwn) {
  auto cache = open(16, {.tenant_quota_bytes = SIZE_MAX});
  ASSERT_TRUE(cache.set_tenant_quota("small", bytes(2)).ok());
  EXPECT_EQ(cache.set_tenant_quota("small", 1).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(cache.admit(numbers(0, 12), {.max_tokens = 12, .scope = {.salt = "small"}}).status().code(),
            StatusCode::ResourceExhausted);
  EXPECT_TRUE(cache.admit(numbers(0, 40), {.max_tokens = 40, .scope = {.salt = "large"}}).ok());
  ASSERT_TRUE(cache.set_tenant_quota("small", 0).ok());
  Lease lease = run(cache, numbers(0, 12), {.max_tokens = 16, .scope = {.salt = "small"}});
  // Lowered below what is in use: what was promised is kept, new ones are refused.
  ASSERT_TRUE(cache.set_tenant_quota("small", bytes(1)).ok());
  EXPECT_TRUE(lease.grow(16).ok());
  EXPECT_EQ(cache.admit(numbers(0, 4), {.max_tokens = 4, .scope = {.salt = "small"}}).status().code(),
            StatusCode::Rejected);
  auto plain = open(4);
  EXPECT_EQ(plain.set_tenant_quota("small", bytes(1)).code(), StatusCode::InvalidArgument);
}

}  // namespace
}  // namespace tiercel
