// A sequence gives its room to another and will go on: what it computed goes to a tier first, where that is worth it.
#include <string>

#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

class TierDemotions : public TierFixture {
 protected:
  // Of six blocks and promised two more; computing a block again takes a tenth of a second.
  Lease run_victim(KvCache& cache) {
    for (std::size_t position = 1; position < 4096; position *= 2) cache.report_prefill(8, position, 0.2);
    return run(cache, tokens, {.max_tokens = 32});
  }
  static Status needs_all(KvCache& cache) { return cache.admit(numbers(900, 32), {.max_tokens = 32}).status(); }
  // From now on a block is written in so many seconds.
  void set_write_time(FaultyStore& slow, double seconds) {
    slow.before_write = [this, seconds] { now_s += seconds * kTierBatchBlocks; };
  }
  // Writes something, so that the tier's speed is known.
  void measure(KvCache& cache) { run_and_store(cache, numbers(9001, 32)); }

  const Tokens tokens = numbers(1, 24);
};

TEST_F(TierDemotions, RoomIsGivenWhenTheTierHasWhatWasThere) {
  KvCache cache = open_tiered(8);
  EXPECT_EQ(cache.demote(run_victim(cache)), 6u);
  EXPECT_EQ(cache.stats().promised_blocks, 0u) << "it grows no more";
  EXPECT_EQ(cache.room().demoting_blocks, 6u);
  EXPECT_EQ(needs_all(cache).code(), StatusCode::Unavailable);
  int told = 0;
  cache.notify_transfers([&] { ++told; });
  finish(cache);
  EXPECT_GE(told, 1) << "who waits for the room knows";
  EXPECT_EQ(cache.room().demoting_blocks, 0u);
  push_out(cache);
  EXPECT_EQ(cache.stats().tiers[0].store.stored_blocks, 6u);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(expected.in_flight());
  finish(cache);
  const Lease back = admit(cache, tokens);
  EXPECT_EQ(back.matched_tokens(), 24u);
  expect_bytes(cache, back, tokens);
}

TEST_F(TierDemotions, ItGoesBeforeWhatWaits) {
  KvCache cache = open_tiered(40);
  Lease victim = run_victim(cache);
  for (TokenId first = 1000; first < 5000; first += 1000) run(cache, numbers(first, 24));
  EXPECT_EQ(cache.demote(std::move(victim)), 6u);
  tiers(cache).run_one();
  EXPECT_EQ(cache.room().demoting_blocks, 0u);
  EXPECT_EQ(cache.stats().tiers[0].store.stored_blocks, 6u);
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierDemotions, NobodyWaitsLongerForATierThanThat) {
  KvCache cache = open_tiered(8);
  EXPECT_EQ(cache.demote(run_victim(cache)), 6u);
  now_s += 0.1;
  EXPECT_EQ(needs_all(cache).code(), StatusCode::Unavailable);
  now_s += 0.1;
  EXPECT_TRUE(needs_all(cache).ok()) << "the tier has not written it, and may hang";
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierDemotions, WhatIsComputedSoonerIsNotWritten) {
  KvCache cache = open_tiered(8);
  set_write_time(*store, 0.001);
  measure(cache);
  Lease victim = run_victim(cache);
  for (int i = 0; i < 200; ++i) {
    for (std::size_t position = 1; position < 4096; position *= 2) cache.report_prefill(8, position, 0.0002);
  }
  EXPECT_EQ(cache.demote(std::move(victim)), 0u);
  EXPECT_TRUE(needs_all(cache).ok());
}

TEST_F(TierDemotions, TheFirstTierThatIsWellFastAndLargeEnoughTakesIt) {
  for (const int what : {0, 1, 2, 3}) {
    auto second = std::make_shared<FaultyStore>(tier_bytes(1000));
    store = std::make_shared<FaultyStore>(tier_bytes(what == 1 ? 2 : 1000));
    KvCache cache = open_tiered(20, {.tiers = {store, second}, .tier_deadline_ms = 100'000});
    if (what == 2) set_write_time(*store, 0.1);
    if (what == 3) store->fail_write_one_in = 1;
    for (int i = 0; i < 3; ++i) run_and_store(cache, numbers(9001 + 1000 * i, 32));
    const std::size_t first_had = store->stats().stored_blocks, second_had = second->stats().stored_blocks;
    const std::size_t demoted = cache.demote(run_victim(cache));
    EXPECT_EQ(demoted, 6u) << what;
    tiers(cache).run_one();
    EXPECT_EQ(cache.room().demoting_blocks, 0u) << what;
    EXPECT_EQ(store->stats().stored_blocks - first_had, what == 0 ? 6u : 0u) << what;
    EXPECT_EQ(second->stats().stored_blocks - second_had, what == 0 ? 0u : 6u) << what;
  }
}

TEST_F(TierDemotions, WhatNobodyCanFindIsGivenBackAtOnce) {
  KvCache cache = open_tiered(8);
  Lease victim = admit(cache, tokens, {.max_tokens = 32});
  ASSERT_TRUE(victim.grow(24).ok());
  victim.commit(std::span(tokens).first(12));
  victim.commit(std::span(tokens).subspan(12), /*share=*/false);
  EXPECT_EQ(cache.demote(std::move(victim)), 3u);
  EXPECT_EQ(cache.stats().leased_blocks, 3u);
  EXPECT_EQ(cache.stats().free_blocks, 5u);
  Lease none = admit(cache, numbers(500, 8));
  ASSERT_TRUE(none.grow(8).ok());
  none.commit(numbers(500, 8), false);
  EXPECT_EQ(cache.demote(std::move(none)), 0u);
  EXPECT_EQ(cache.demote(run(cache, numbers(700, 8), {.retention = {.ttl_ms = 1000}})), 0u)
      << "what must not outlive its time";
  EXPECT_EQ(cache.demote(Lease()), 0u);
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierDemotions, NobodyWaitsForWhatWasDemotedWhileItWasComputed) {
  KvCache cache = open_tiered(20);
  Lease victim = admit(cache, tokens);
  const Tokens first(tokens.begin(), tokens.begin() + 8);
  compute(cache, victim, first);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(expected.in_flight());
  EXPECT_EQ(cache.demote(std::move(victim)), 2u);
  EXPECT_FALSE(expected.in_flight());
}

TEST_F(TierDemotions, ACacheThatClosesGivesUp) {
  Lease outlives;
  {
    KvCache cache = open_tiered(20);
    outlives = admit(cache, numbers(700, 8));
    EXPECT_EQ(cache.demote(run_victim(cache)), 6u);
  }
  EXPECT_TRUE(outlives.grow(8).ok());
}

}  // namespace
}  // namespace tiercel
