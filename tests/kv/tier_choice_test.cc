// What the cache does with a tier that is slow, ill, hangs or holds what was forgotten, and what it loads unasked.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

class TierChoice : public TierFixture {
 protected:
  static constexpr double kBlockTokens = 4;
  // Computing a block takes a tenth of a second.
  static void know_computing(KvCache& cache) {
    for (std::size_t position = 1; position < 4096; position *= 2) cache.report_prefill(8, position, 0.2);
  }
  // From now on a block is read in so many seconds.
  void set_read_time(FaultyStore& slow, double seconds_per_block) {
    slow.before_read = [this, seconds_per_block](std::size_t blocks) {
      now_s += seconds_per_block * static_cast<double>(blocks);
    };
  }
  // Loads something, so that the tier's speed is known.
  static void measure(KvCache& cache) {
    const Tokens other = numbers(9001, 12);
    run_and_store(cache, other);
    push_out(cache);
    const ExpectedPrompt expected = cache.expect(other, {});
    finish(cache);
  }
};

TEST_F(TierChoice, WhatIsFasterToComputeIsNotWaitedFor) {
  for (const double seconds : {0.05, 0.2}) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(64, {.tier_deadline_ms = 100'000});
    set_read_time(*store, seconds);
    measure(cache);
    const Tokens tokens = numbers(1, 40);
    run_and_store(cache, tokens);
    push_out(cache);
    know_computing(cache);
    const ExpectedPrompt expected = cache.expect(tokens, {});
    EXPECT_EQ(expected.in_flight(), seconds < 0.1);
    finish(cache);
    EXPECT_EQ(expected.cached_tokens(), seconds < 0.1 ? 40u : 0u);
  }
}

TEST_F(TierChoice, ATierThatTurnsOutSlowIsNoLongerWaitedFor) {
  KvCache cache = open_tiered(64, {.tier_deadline_ms = 100'000});
  const Tokens tokens = numbers(1, 40);
  run_and_store(cache, tokens);
  push_out(cache);
  know_computing(cache);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(expected.in_flight()) << "nothing is known of the tier: optimism";
  bool waited_early = false, waited_late = true;
  store->before_read = [&](std::size_t blocks) {
    // One block of ten is being read. Computing all takes a second.
    now_s += 0.09;
    waited_early = expected.in_flight();
    now_s += 0.02;
    waited_late = expected.in_flight();
    now_s += static_cast<double>(blocks);
  };
  ASSERT_TRUE(tiers(cache).run_one());
  EXPECT_TRUE(waited_early);
  EXPECT_FALSE(waited_late) << "at this rate the rest takes longer than computing it";
  EXPECT_FALSE(expected.in_flight());
}

TEST_F(TierChoice, ASlowTierIsTriedAgainWithoutWaiting) {
  KvCache cache = open_tiered(64, {.tier_deadline_ms = 100'000});
  set_read_time(*store, 1);
  measure(cache);
  const Tokens tokens = numbers(1, 80);
  run_and_store(cache, tokens);
  push_out(cache);
  know_computing(cache);
  {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    EXPECT_EQ(expected.cached_tokens(), 0u);
  }
  set_read_time(*store, 0.001);  // the disk's other user has gone
  now_s += 60;
  for (int attempt = 0; attempt < 40; ++attempt) {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    const bool waits = expected.in_flight();
    finish(cache);
    if (waits) {
      EXPECT_EQ(expected.cached_tokens(), 80u);
      EXPECT_GT(attempt, 0);
      return;
    }
    now_s += 10;
    push_out(cache);
  }
  FAIL() << "it never noticed";
}

TEST_F(TierChoice, TheFastTiersPartIsLoadedAndTheSlowTiersComputed) {
  const auto slow = std::make_shared<FaultyStore>(tier_bytes(1000));
  const Tokens tokens = numbers(1, 40);
  {
    KvCache earlier = open_tiered(64, {.tiers = {slow}});
    run_and_store(earlier, tokens);
    run_and_store(earlier, numbers(9001, 12));
    EXPECT_EQ(slow->stats().stored_blocks, 13u);
  }
  KvCache cache = open_tiered(64, {.tiers = {store, slow}, .tier_deadline_ms = 100'000});
  set_read_time(*slow, 1);
  {
    const Tokens other = numbers(9001, 12);
    const ExpectedPrompt measured = cache.expect(other, {});
    finish(cache);
    EXPECT_EQ(measured.cached_tokens(), 12u);
  }
  run_and_store(cache, numbers(1, 12));  // the first tier has three blocks of it
  push_out(cache);
  know_computing(cache);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(expected.in_flight());
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 12u);
}

TEST_F(TierChoice, AFailingTierIsLeftAloneAndProbed) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  push_out(cache);
  store->fail_read_one_in = 1;
  int asked = 0;
  store->before_read = [&](std::size_t) { ++asked; };
  for (int i = 0; i < 50; ++i) {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    now_s += 0.01;
  }
  EXPECT_EQ(asked, CircuitBreaker::kMostFailures);
  EXPECT_FALSE(cache.stats().tiers[0].reads_available);
  EXPECT_TRUE(cache.stats().tiers[0].writes_available);
  store->fail_read_one_in = 0;
  now_s += 2;
  const ExpectedPrompt expected = cache.expect(tokens, {});
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 16u);
  EXPECT_TRUE(cache.stats().tiers[0].reads_available);
}

TEST_F(TierChoice, AHangingTierIsNotAskedHoweverLongItHangs) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  push_out(cache);
  std::vector<bool> readable;
  store->before_read = [&](std::size_t) {
    for (const double seconds : {0.5, 0.6, 1.5, 60.0}) {
      now_s += seconds;
      readable.push_back(tiers(cache).worker(0).is_readable());
    }
  };
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(tiers(cache).run_one());
  EXPECT_EQ(readable, (std::vector<bool>{true, false, false, false}));
}

TEST_F(TierChoice, AFailingWriteHoldsNoBlocks) {
  KvCache cache = open_tiered(64);
  store->fail_write_one_in = 1;
  for (TokenId i = 0; i < 10; ++i) run_and_store(cache, numbers(1 + 100 * i, 16));
  EXPECT_FALSE(cache.stats().tiers[0].writes_available);
  EXPECT_EQ(cache.stats().leased_blocks, 0u);
  EXPECT_EQ(cache.stats().stored_blocks, 0u);
  EXPECT_EQ(cache.stats().unstored_blocks, 40u);
  store->fail_write_one_in = 0;
  now_s += 2;
  run_and_store(cache, numbers(5001, 16));
  EXPECT_EQ(cache.stats().stored_blocks, 4u);
  expect_all_returned(cache);
}

TEST_F(TierChoice, WhatATierGaveIsWrittenToTheFasterOnes) {
  const auto slow = std::make_shared<FaultyStore>(tier_bytes(1000));
  KvCache cache = open_tiered(64, {.tiers = {store, slow}});
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  EXPECT_EQ(slow->stats().stored_blocks, 4u) << "every tier has it";
  ASSERT_TRUE(store->inner.erase_all().ok());
  push_out(cache);
  {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
  }
  {
    const Lease lease = admit(cache, tokens);
    EXPECT_EQ(lease.matched_tokens(), 16u);
    EXPECT_EQ(lease.matched_tokens_from(0), 0u);
    EXPECT_EQ(lease.matched_tokens_from(1), 16u);
  }
  {
    const Lease lease = admit(cache, tokens);
    EXPECT_EQ(lease.matched_tokens_from(1), 0u) << "by now it is in the cache";
  }
  finish(cache);
  EXPECT_EQ(store->stats().stored_blocks, 4u);
  EXPECT_EQ(cache.stats().tiers[1].matched_tokens, 16u);
}

TEST_F(TierChoice, InvalidationReachesWhatIsOnlyInATier) {
  KvCache cache = open_tiered(64);
  const Tokens shared = numbers(1, 8), one = shared + numbers(50, 8), two = shared + numbers(70, 8),
               other = numbers(5, 8);
  for (const Tokens& tokens : {one, two, other}) run_and_store(cache, tokens);
  run_and_store(cache, one, {.scope = {.salt = "a"}});
  push_out(cache);
  const auto stored = [&] {
    finish(cache);
    return store->stats().stored_blocks;
  };
  ASSERT_EQ(stored(), 12u);
  EXPECT_EQ(cache.invalidate(one), 0u) << "none of it was hot";
  EXPECT_FALSE(cache.expect(shared, {}).in_flight()) << "nothing is read before all is erased";
  EXPECT_EQ(stored(), 11u) << "the last block of it";
  cache.invalidate(shared);
  EXPECT_EQ(stored(), 7u);
  run_and_store(cache, two);
  push_out(cache);
  ASSERT_EQ(stored(), 10u);
  cache.invalidate(numbers(1, 6));
  EXPECT_EQ(stored(), 6u) << "whole blocks count: the shared ones go with all behind them";
  cache.invalidate(numbers(5, 3));
  EXPECT_EQ(stored(), 4u) << "less than a block: all that begins so";
  EXPECT_TRUE(cache.expect(one, {.scope = {.salt = "a"}}).in_flight());
  cache.invalidate_tenant("a");
  EXPECT_EQ(stored(), 0u);
  run_and_store(cache, one);
  EXPECT_EQ(cache.invalidate_all(), 4u);
  EXPECT_EQ(stored(), 0u);
  expect_all_returned(cache);
}

TEST_F(TierChoice, WhatIsForgottenWhileItIsReadStaysForgotten) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  for (const int kind : {0, 1, 2}) {
    run_and_store(cache, tokens);
    push_out(cache);
    const ExpectedPrompt expected = cache.expect(tokens, {});
    store->before_read = [&](std::size_t) {
      if (kind == 0) cache.invalidate(tokens);
      if (kind == 1) cache.invalidate_tenant("");
      if (kind == 2) cache.invalidate_all();
    };
    finish(cache);
    store->before_read = [](std::size_t) {};
    EXPECT_EQ(expected.cached_tokens(), 0u) << kind;
    EXPECT_EQ(found(cache, tokens), 0u) << kind;
  }
}

TEST_F(TierChoice, AnErasureThatFailedIsTriedAgain) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  store->fail_erase_one_in = 1;
  cache.invalidate(numbers(1, 4));
  EXPECT_TRUE(tiers(cache).run_one());
  EXPECT_EQ(store->stats().stored_blocks, 4u);
  store->fail_erase_one_in = 0;
  now_s += 5;
  finish(cache);
  EXPECT_EQ(store->stats().stored_blocks, 0u);
}

TEST_F(TierChoice, FlushKeepsWhatIsCachedInDurableTiers) {
  store->durable = true;
  KvCache cache = open_tiered(64);
  store->fail_write_one_in = 1;
  run(cache, numbers(1, 32));
  EXPECT_EQ(cache.flush().code(), StatusCode::Unavailable);
  store->fail_write_one_in = 0;
  now_s += 2;
  run(cache, numbers(101, 32));
  run(cache, numbers(201, 16), {.retention = {.priority = RetentionPriority::Low}});
  run(cache, numbers(301, 16), {.retention = {.ttl_ms = 1000}});
  EXPECT_TRUE(cache.flush().ok());
  EXPECT_EQ(store->stats().stored_blocks, 16u);
  EXPECT_GT(store->flushes, 0);
  push_out(cache);
  const Tokens tokens = numbers(101, 32);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  EXPECT_TRUE(expected.in_flight());
}

TEST_F(TierChoice, FlushKeepsTheBlocksOfRunningRequests) {
  store->durable = true;
  KvCache cache = open_tiered(64);
  const Tokens prompt = numbers(1, 12), turn = prompt + numbers(51, 6);  // the last block is not full
  run_and_store(cache, prompt);
  const Lease running = run(cache, turn);
  const Lease low = run(cache, numbers(201, 8), {.retention = {.priority = RetentionPriority::Low}});
  const Lease brief = run(cache, numbers(301, 8), {.retention = {.ttl_ms = 1000}});
  EXPECT_TRUE(cache.flush().ok());
  EXPECT_EQ(store->stats().stored_blocks, 4u);
}

TEST_F(TierChoice, FlushKeepsWhatRunningRequestsLoadedFromATierThatDoesNotLast) {
  const auto memory = std::make_shared<FaultyStore>(tier_bytes(1000));
  store->durable = true;
  store->fail_write_one_in = 1;
  KvCache cache = open_tiered(64, {.tiers = {memory, store}});
  const Tokens prompt = numbers(1, 12), turn = prompt + numbers(51, 8);
  run_and_store(cache, prompt);
  push_out(cache);
  const ExpectedPrompt expected = cache.expect(turn, {});
  finish(cache);
  store->fail_write_one_in = 0;
  now_s += 5;
  const Lease running = run(cache, turn);
  EXPECT_EQ(running.matched_tokens(), prompt.size());
  EXPECT_TRUE(cache.flush().ok());
  EXPECT_EQ(store->stats().stored_blocks, 5u);
}

TEST_F(TierChoice, AFlushThatGivesUpItsOwnBlocksIsNotOk) {
  store = std::make_shared<FaultyStore>(tier_bytes(8));
  store->durable = true;
  KvCache cache = open_tiered(64, {.tier_writes = WritePolicy::SeenTwice});
  run(cache, numbers(1, 24));
  EXPECT_TRUE(cache.flush().ok());
  run(cache, numbers(101, 24));
  EXPECT_EQ(cache.flush().code(), StatusCode::Unavailable) << "12 blocks where 8 have room";
}

TEST_F(TierChoice, WhatIsSeenOnceIsNotWritten) {
  store->durable = true;
  KvCache cache = open_tiered(64, {.tier_writes = WritePolicy::SeenTwice});
  const Tokens shared = numbers(1, 8), one = shared + numbers(50, 8), two = shared + numbers(70, 8);
  run_and_store(cache, one);
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  run_and_store(cache, two);
  EXPECT_EQ(store->stats().stored_blocks, 2u) << "what was found in the cache";
  push_out(cache);
  run_and_store(cache, one);
  EXPECT_EQ(store->stats().stored_blocks, 4u) << "what is computed again";
  run_and_store(cache, one);
  run_and_store(cache, numbers(201, 8), {.retention = {.priority = RetentionPriority::High}});
  EXPECT_EQ(store->stats().stored_blocks, 6u) << "what its user values";
  run_and_store(cache, numbers(301, 8));
  EXPECT_EQ(cache.stats().stored_blocks, 6u);
  EXPECT_TRUE(cache.flush().ok());
  EXPECT_EQ(store->stats().stored_blocks, 8u) << "all that is cached";
}

TEST_F(TierChoice, WhatIsNextToGoIsWrittenBeforeItGoes) {
  KvCache cache = open_tiered(64, {.tier_writes = WritePolicy::WhenEvicted});
  const Tokens first = numbers(1, 40), low = numbers(501, 8);  // 10 blocks, and 2
  for (int i = 0; i < 2; ++i) {                                // once is not worth it
    run_and_store(cache, low, {.retention = {.priority = RetentionPriority::Low}});
    run_and_store(cache, first);
    for (TokenId other = 1; other < 5; ++other) run_and_store(cache, numbers(1000 * other, 40));
  }
  EXPECT_EQ(store->stats().stored_blocks, 0u) << "there is room";
  run_and_store(cache, numbers(6000, 16));  // 8 blocks are free
  EXPECT_EQ(store->stats().stored_blocks, 50u) << "all but what is not to be kept, and what was seen once";
  const std::uint64_t written = store->stats().written_blocks;
  run_and_store(cache, first);  // now the last to go
  EXPECT_EQ(store->stats().written_blocks, written) << "it is there";
  push_out(cache);
  const ExpectedPrompt expected = cache.expect(first, {});
  finish(cache);
  EXPECT_EQ(found(cache, first), first.size());
}

TEST_F(TierChoice, OfWhatIsNextToGoWhatIsOfNoValueIsNotWritten) {
  KvCache cache = open_tiered(64, {.tier_writes = WritePolicy::WhenEvicted});
  const Tokens shared = numbers(1, 8), once = shared + numbers(50, 8), again = shared + numbers(70, 8);
  run_and_store(cache, once);
  run_and_store(cache, again);
  const auto fill = [&](TokenId first) {  // so that all there was is next to go, and goes
    for (TokenId i = 0; i < 10; ++i) run_and_store(cache, numbers(first + 100 * i, 28));
  };
  fill(1000);
  EXPECT_EQ(store->stats().stored_blocks, 2u) << "what two have in common";
  EXPECT_EQ(found(cache, once), 0u);
  run_and_store(cache, once);
  fill(3000);
  EXPECT_EQ(store->stats().stored_blocks, 4u) << "what was computed twice";
  run_and_store(cache, numbers(201, 8), {.retention = {.priority = RetentionPriority::High}});
  EXPECT_EQ(store->stats().stored_blocks, 6u) << "what its user values";
}

TEST_F(TierChoice, WhatATierGaveUpIsWrittenAgainWhenItIsNextToGo) {
  store = std::make_shared<FaultyStore>(tier_bytes(40));
  KvCache cache = open_tiered(64, {.tier_writes = WritePolicy::WhenEvicted});
  const auto document = [](TokenId i) {
    return numbers(1000 * i, 16);
  };  // of 4 blocks: 16 in the cache, 10 in the tier
  const auto load = [&](const Tokens& tokens) {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    return found(cache, tokens);
  };
  const auto use = [&](TokenId first, TokenId last) {
    for (TokenId i = first; i <= last; ++i) {
      for (int times = 0; times < 2; ++times) run_and_store(cache, document(i));
    }
  };
  use(1, 20);
  ASSERT_EQ(found(cache, document(4)), 0u);
  ASSERT_EQ(load(document(4)), 16u);
  run_and_store(cache, document(4));
  use(21, 36);
  ASSERT_EQ(found(cache, document(4)), 0u);
  EXPECT_EQ(load(document(4)), 16u);
}

TEST_F(TierChoice, LookingAheadChangesNoOrder) {
  const auto evicted_first = [&](WritePolicy policy) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(16, {.tier_writes = policy});
    for (TokenId i = 1; i <= 4; ++i) run_and_store(cache, numbers(100 * i, 16));
    run_and_store(cache, numbers(200, 16));
    run_and_store(cache, numbers(900, 12));
    std::vector<std::size_t> left;
    for (TokenId i = 1; i <= 4; ++i) left.push_back(found(cache, numbers(100 * i, 16)));
    return left;
  };
  EXPECT_EQ(evicted_first(WritePolicy::WhenEvicted), evicted_first(WritePolicy::EveryBlock));
}

TEST_F(TierChoice, WhatComesFromATierIsNotOfferedToItAgain) {
  for (const WritePolicy policy : {WritePolicy::EveryBlock, WritePolicy::SeenTwice}) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(64, {.tier_writes = policy});
    const Tokens tokens = numbers(1, 16);
    for (int i = 0; i < 2; ++i) run_and_store(cache, tokens);
    EXPECT_EQ(store->stats().stored_blocks, 4u);
    push_out(cache);
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    for (int i = 0; i < 3; ++i) run(cache, tokens);
    EXPECT_FALSE(tiers(cache).run_one()) << "nothing was queued";
  }
}

TEST_F(TierChoice, WhatUsuallyFollowsIsLoadedIntoFreeBlocks) {
  KvCache cache = open_tiered(64);
  const Tokens first = numbers(1, 16), second = numbers(101, 16);
  for (const Tokens& tokens : {first, second}) run_and_store(cache, tokens);
  const auto ask = [&](const Tokens& tokens) {
    { const ExpectedPrompt expected = cache.expect(tokens, {}); }
    run_and_store(cache, tokens);
  };
  for (int round = 0; round < 3; ++round) ask(first), ask(second);
  push_out(cache);
  cache.expect(first, {});
  finish(cache);
  EXPECT_EQ(found(cache, second), 16u);
  EXPECT_EQ(cache.stats().prefetched_useful_blocks, 0u);
  { const Lease lease = admit(cache, second); }
  EXPECT_EQ(cache.stats().prefetched_useful_blocks, 4u);

  // A full cache gives nothing up for a guess.
  ask(second);
  push_out(cache);
  run(cache, numbers(1001, 4 * 62));
  finish(cache);
  cache.expect(first, {});
  finish(cache);
  EXPECT_EQ(found(cache, second), 0u);
  EXPECT_EQ(found(cache, numbers(1001, 4 * 62)), 4 * 62u);
}

// With threads and the real clock: nothing may wait for a store that hangs.
class HangingTier : public TierFixture {
 protected:
  KvCache open_hanging() {
    KvCacheOptions options{.capacity_bytes = bytes(64), .eviction = lru(), .tiers = {store}, .tier_deadline_ms = 20};
    return KvCache::open(options, kLayout, {}).value();
  }
  void hang() {
    std::unique_lock lock(mutex);
    hangs = true;
    changed.notify_all();
    changed.wait(lock, [&] { return released; });
  }
  void wait_until_it_hangs() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return hangs; });
  }
  void release() {
    const std::lock_guard lock(mutex);
    released = true;
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool hangs = false, released = false;
};

TEST_F(HangingTier, AReadIsGivenUp) {
  const Tokens tokens = numbers(1, 16);
  {
    KvCache cache = open_hanging();
    run(cache, tokens);
    while (cache.stats().stored_blocks < 4) std::this_thread::yield();
    push_out(cache);
    store->before_read = [&](std::size_t) { hang(); };
    {
      const ExpectedPrompt expected = cache.expect(tokens, {});
      wait_until_it_hangs();
      while (expected.in_flight()) std::this_thread::yield();
    }
    run(cache, tokens);  // computed instead
    EXPECT_EQ(found(cache, tokens), 16u);
    EXPECT_FALSE(cache.expect(numbers(7, 16), {}).in_flight());
    EXPECT_FALSE(cache.stats().tiers[0].reads_available);
  }
  release();  // after the cache is gone; the thread finds everything it touches
  while (store.use_count() > 1) std::this_thread::yield();
}

TEST_F(HangingTier, AWriteHoldsNoBlocks) {
  {
    KvCache cache = open_hanging();
    store->before_write = [&] { hang(); };
    run(cache, numbers(1, 16));
    wait_until_it_hangs();
    EXPECT_EQ(cache.stats().leased_blocks, 0u);
    const Lease all = admit(cache, {}, {.max_tokens = 4 * 64});
  }
  release();
  while (store.use_count() > 1) std::this_thread::yield();
}

}  // namespace
}  // namespace tiercel
