// A prompt whose end is loaded while its beginning is computed. What the tier reads takes time, during which the
// computing goes on: the store's read calls back, on the same thread and with the clock turned by hand.
#include <algorithm>
#include <functional>
#include <random>

#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

class TierSplit : public TierFixture {
 protected:
  static constexpr std::size_t kBlockTokens = kLayout.block_tokens;
  static constexpr double kComputeBlock_s = 0.1;

  static void know_computing(KvCache& cache) {
    for (std::size_t position = 1; position < 4096; position *= 2) {
      cache.report_prefill(kBlockTokens, position, kComputeBlock_s);
    }
  }
  // What `tokens` left in the store by an earlier cache, and what the tier's speed is, are known to the new one.
  void store_and_measure(KvCache& cache, const Tokens& tokens, double read_block_s) {
    run_and_store(cache, tokens);
    const Tokens other = numbers(9001, 12 * kBlockTokens);
    run_and_store(cache, other);
    push_out(cache);
    store->before_read = [&, read_block_s](std::size_t blocks) { now_s += read_block_s * static_cast<double>(blocks); };
    {
      const ExpectedPrompt expected = cache.expect(other, {});
      finish(cache);
    }
    push_out(cache);
    know_computing(cache);
  }

  // A prompt that is computed on one hand while the tier reads on the other.
  struct Runner {
    KvCache& cache;
    const Tokens& tokens;
    double& now_s;
    Lease lease;
    double done_s = 0;             // when all it has computed was computed
    std::size_t most_blocks = 64;  // of a step
    std::size_t computed_tokens = 0;
    std::size_t waits = 0;
    double compute_block_s = kComputeBlock_s;

    bool done() const { return lease.committed_tokens() == tokens.size(); }
    void step() {
      const std::size_t end = std::min(lease.extend(), tokens.size()), before = lease.committed_tokens();
      ASSERT_GE(end, before);
      if (done()) return;
      if (end == before) {
        done_s += 0.001;
        ++waits;
        return;
      }
      const std::size_t last = std::min(end, (before / kBlockTokens + most_blocks) * kBlockTokens);
      compute(cache, lease, std::span(tokens).first(last));
      computed_tokens += last - before;
      done_s += compute_block_s * static_cast<double>(last - before) / kBlockTokens;
    }
    // Goes on until `end_s`; a step may last longer.
    void run_until(double end_s) {
      while (!done() && done_s < end_s) {
        now_s = std::max(now_s, done_s);
        step();
      }
    }
  };
  Runner begin(KvCache& cache, const Tokens& tokens, AdmitOptions options = {}) {
    options.splits = true;
    options.max_tokens = tokens.size();
    ExpectedPrompt expected = cache.expect(tokens, options);
    while (expected.in_flight()) {
      if (!tiers(cache).run_one()) now_s += 0.001;
    }
    Runner runner{.cache = cache, .tokens = tokens, .now_s = now_s, .lease = {}};
    runner.lease = cache.admit(tokens, options, &expected).value();
    runner.done_s = now_s;
    return runner;
  }
  // Both hands work until the prompt is computed.
  void run_both(KvCache& cache, Runner& runner, double read_block_s) {
    store->before_read = [&](std::size_t blocks) {
      const double read_s = now_s + read_block_s * static_cast<double>(blocks);
      runner.run_until(read_s);
      now_s = read_s;
    };
    runner.run_until(now_s + 1e-9);  // its first step begins at once
    while (tiers(cache).run_one()) {
    }
    runner.run_until(1e9);
    store->before_read = [](std::size_t) {};
  }
};

TEST_F(TierSplit, TakesLessThanLoadingAndThanComputing) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  for (const double read_block_s : {0.03, 0.07, 0.1, 0.13, 0.3}) {
    SCOPED_TRACE(read_block_s);
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
    store_and_measure(cache, tokens, read_block_s);
    const KvCacheStats before = cache.stats();
    const double begin_s = now_s;
    Runner runner = begin(cache, tokens);
    run_both(cache, runner, read_block_s);
    const double load_s = 40 * read_block_s, compute_s = 40 * kComputeBlock_s;
    const double ideal_s = load_s * compute_s / (load_s + compute_s);
    EXPECT_LE(runner.done_s - begin_s, ideal_s + 2 * kComputeBlock_s);
    EXPECT_EQ(runner.lease.matched_tokens() + runner.computed_tokens, tokens.size());
    EXPECT_EQ(runner.lease.matched_tokens_from(0), runner.lease.matched_tokens());
    EXPECT_GT(runner.lease.matched_tokens(), 0u);
    expect_bytes(cache, runner.lease, tokens);
    const KvCacheStats after = cache.stats();
    EXPECT_EQ(after.matched_tokens - before.matched_tokens, runner.lease.matched_tokens());
    EXPECT_EQ(after.tiers[0].matched_tokens - before.tiers[0].matched_tokens, runner.lease.matched_tokens());
    EXPECT_EQ((after.loaded_blocks - before.loaded_blocks) * kBlockTokens, runner.lease.matched_tokens());
    EXPECT_EQ(found(cache, tokens), tokens.size()) << "others find what joined";
    EXPECT_EQ(after.leased_blocks, 40u) << "what was read and not needed is given back";
    EXPECT_EQ(after.promised_blocks, 0u);
    runner.lease = Lease();
    finish(cache);
    expect_all_returned(cache);
  }
}

// The cache had the beginning when the load was planned, and has it no more when the prompt is admitted.
TEST_F(TierSplit, WhatItGoesOnFromWasEvicted) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  store = std::make_shared<FaultyStore>(tier_bytes(1000));
  KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
  store_and_measure(cache, tokens, kComputeBlock_s);
  run_and_store(cache, Tokens(tokens.begin(), tokens.begin() + 8 * kBlockTokens));
  const AdmitOptions options{.max_tokens = tokens.size(), .splits = true};
  ExpectedPrompt expected = cache.expect(tokens, options);
  while (expected.in_flight()) {
    if (!tiers(cache).run_one()) now_s += 0.001;
  }
  push_out(cache);
  Runner runner{.cache = cache, .tokens = tokens, .now_s = now_s, .lease = {}};
  runner.lease = cache.admit(tokens, options, &expected).value();
  ASSERT_EQ(runner.lease.matched_tokens(), 0u);
  runner.done_s = now_s;
  run_both(cache, runner, kComputeBlock_s);
  EXPECT_EQ(runner.computed_tokens, tokens.size());
  EXPECT_EQ(runner.lease.matched_tokens(), 0u);
  expect_bytes(cache, runner.lease, tokens);
  runner.lease = Lease();
  expected = ExpectedPrompt();
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierSplit, FarFromEachOtherOneIsEnough) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  for (const double read_block_s : {0.001, 3.0}) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
    store_and_measure(cache, tokens, read_block_s);
    Runner runner = begin(cache, tokens);
    run_both(cache, runner, read_block_s);
    EXPECT_EQ(runner.lease.matched_tokens(), read_block_s < 1 ? tokens.size() : 0u);
  }
}

TEST_F(TierSplit, ATierOfUnknownSpeedIsTriedFromTheFrontThenFromTheBack) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
  run_and_store(cache, tokens);
  push_out(cache);
  know_computing(cache);
  store->before_read = [&](std::size_t blocks) { now_s += 0.08 * static_cast<double>(blocks); };
  const double begin_s = now_s;
  Runner runner = begin(cache, tokens);
  EXPECT_EQ(runner.lease.matched_tokens(), 4u) << "one block of it showed the tier's speed";
  run_both(cache, runner, 0.08);
  EXPECT_LT(runner.done_s - begin_s, 2.2) << "3.2 s to load, 4 s to compute";
  EXPECT_GT(runner.lease.matched_tokens_from(0), tokens.size() / 3);
  expect_bytes(cache, runner.lease, tokens);
}

TEST_F(TierSplit, ATierThatFallsBehindCostsABatch) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
  store_and_measure(cache, tokens, 0.1);
  Runner runner = begin(cache, tokens);
  const double begin_s = now_s;
  run_both(cache, runner, 10);  // a hundred times as long as it used to
  EXPECT_LE(runner.done_s - begin_s, 40 * kComputeBlock_s * 1.05);
  EXPECT_EQ(runner.computed_tokens, tokens.size());
}

TEST_F(TierSplit, ATierThatHangsIsNotWaitedFor) {
  const Tokens tokens = numbers(1, 40 * kBlockTokens);
  KvCache cache = open_tiered(128);
  store_and_measure(cache, tokens, 0.07);
  Runner runner = begin(cache, tokens);
  store->before_read = [&](std::size_t) {
    now_s += 5;  // beyond the deadline
    EXPECT_EQ(runner.lease.extend(), tokens.size());
    runner.lease = Lease();  // its blocks are not those that are being read
    EXPECT_EQ(KvCacheState::of(cache).audit(), "");
  };
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierSplit, WhatIsForgottenMeanwhileDoesNotJoin) {
  const Tokens tokens = numbers(1, 20 * kBlockTokens);
  for (const int kind : {0, 1, 2}) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
    store_and_measure(cache, tokens, 0.1);
    Runner runner = begin(cache, tokens);
    ASSERT_LT(runner.lease.extend(), tokens.size());
    ASSERT_TRUE(tiers(cache).run_one());
    if (kind == 0) cache.invalidate(std::span(tokens).first(8));
    if (kind == 1) cache.invalidate_tenant("");
    if (kind == 2) cache.invalidate_all();
    EXPECT_EQ(runner.lease.extend(), SIZE_MAX);
    finish(cache);
    compute(cache, runner.lease, tokens);
    EXPECT_EQ(runner.lease.matched_tokens(), 0u);
    expect_bytes(cache, runner.lease, tokens);
    runner.lease = Lease();
    expect_all_returned(cache);
  }
}

TEST_F(TierSplit, ADamagedBlockIsComputedAndThoseBehindItJoin) {
  const Tokens tokens = numbers(1, 20 * kBlockTokens);
  KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
  store_and_measure(cache, tokens, 0.07);
  Runner runner = begin(cache, tokens);
  ASSERT_LT(runner.lease.extend(), tokens.size());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(tiers(cache).run_one());
  store->damage_one_in = 1;
  finish(cache);
  const std::size_t end = runner.lease.extend();
  EXPECT_LT(end, tokens.size());
  EXPECT_EQ(end % kBlockTokens, 0u);
  compute(cache, runner.lease, std::span(tokens).first(end));
  EXPECT_EQ(runner.lease.extend(), SIZE_MAX);
  EXPECT_TRUE(runner.done());
  EXPECT_EQ(runner.lease.matched_tokens(), tokens.size() - end);
  expect_bytes(cache, runner.lease, tokens);
}

TEST_F(TierSplit, ARunnerMayGrowAtOnceAndComputeFurther) {
  const Tokens tokens = numbers(1, 20 * kBlockTokens);
  for (const bool beyond : {false, true}) {
    store = std::make_shared<FaultyStore>(tier_bytes(1000));
    KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
    store_and_measure(cache, tokens, 0.1);
    Runner runner = begin(cache, tokens);
    ASSERT_TRUE(runner.lease.grow(tokens.size()).ok());
    const std::size_t end = runner.lease.extend();
    finish(cache);
    compute(cache, runner.lease, std::span(tokens).first(beyond ? end + 5 : end));
    if (beyond) {
      EXPECT_EQ(runner.lease.extend(), end + 8) << "a block that was begun is computed";
      compute(cache, runner.lease, std::span(tokens).first(end + 8));
    }
    EXPECT_EQ(runner.lease.extend(), SIZE_MAX);
    EXPECT_TRUE(runner.done());
    EXPECT_EQ(runner.lease.matched_tokens(), tokens.size() - end - (beyond ? 8 : 0));
    expect_bytes(cache, runner.lease, tokens);
    runner.lease = Lease();
    expect_all_returned(cache);
  }
}

TEST_F(TierSplit, ALeaseMayOutliveItsCache) {
  const Tokens tokens = numbers(1, 20 * kBlockTokens);
  Lease lease;
  {
    KvCache cache = open_tiered(128, {.tier_deadline_ms = 100'000});
    store_and_measure(cache, tokens, 0.07);
    Runner runner = begin(cache, tokens);
    runner.lease.extend();
    ASSERT_TRUE(tiers(cache).run_one());
    lease = std::move(runner.lease);
  }
  EXPECT_LE(lease.extend(), tokens.size());
}

TEST_F(TierSplit, WithoutRoomForBothAllIsComputed) {
  const Tokens tokens = numbers(1, 20 * kBlockTokens);
  KvCache cache = open_tiered(20, {.tier_deadline_ms = 100'000});
  store_and_measure(cache, tokens, 0.07);
  Runner runner = begin(cache, tokens);
  run_both(cache, runner, 0.07);
  EXPECT_EQ(runner.computed_tokens, tokens.size());
  expect_bytes(cache, runner.lease, tokens);
}

// Prompts that share beginnings, split over a tier of changing speed that fails now and then, some given up, some
// forgotten, in a cache that is nearly full.
TEST_F(TierSplit, SeededHistories) {
  std::size_t joined = 0, computed = 0, waits = 0, partly = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    store = std::make_shared<FaultyStore>(tier_bytes(400));
    KvCache cache = open_tiered(60, {.tenant_quota_bytes = seed % 3 == 0 ? bytes(50) : 0, .tier_deadline_ms = 100'000});
    know_computing(cache);
    for (int round = 0; round < 40; ++round) {
      Tokens tokens = numbers(static_cast<TokenId>(random() % 3) * 1000, 4 + random() % 100);
      if (random() % 3 == 0) tokens[random() % tokens.size()] = 7;
      if (random() % 3 == 0) run(cache, numbers(50'000, 4 * 45));  // pushes out most of it
      store->fail_read_one_in = seed % 2 == 0 && random() % 4 == 0 ? 9 : 0;
      store->damage_one_in = seed % 2 == 0 && random() % 4 == 0 ? 9 : 0;
      const double read_block_s = 0.01 * static_cast<double>(1 + random() % 40);
      store->before_read = [&](std::size_t blocks) { now_s += read_block_s * static_cast<double>(blocks); };
      Runner runner = begin(cache, tokens);
      const std::size_t matched_at_once = runner.lease.matched_tokens();
      for (std::size_t i = 0; i < matched_at_once; ++i) {
        ASSERT_TRUE(holds_kv(cache, runner.lease.block_table(), i, kv_word(std::span(tokens).first(i + 1), {}, 0)));
      }
      runner.most_blocks = 1 + random() % 12;
      switch (random() % 8) {
        case 0: runner.lease = Lease(); break;  // cancelled before it began
        case 1:
          runner.step();
          tiers(cache).run_one();
          cache.invalidate(numbers(static_cast<TokenId>(random() % 3) * 1000, 4));
          ASSERT_EQ(KvCacheState::of(cache).audit(), "");
          [[fallthrough]];
        default:
          run_both(cache, runner, read_block_s);
          ASSERT_TRUE(runner.done());
          expect_bytes(cache, runner.lease, tokens);
          EXPECT_EQ(runner.lease.matched_tokens() + runner.computed_tokens, tokens.size());
          const std::size_t late = runner.lease.matched_tokens() - matched_at_once;
          joined += late;
          computed += runner.computed_tokens;
          partly += late > 0 && runner.computed_tokens > 0;
          waits += runner.waits;
      }
      ASSERT_EQ(KvCacheState::of(cache).audit(), "");
      runner.lease = Lease();
      finish(cache);
      ASSERT_EQ(KvCacheState::of(cache).audit(), "");
      ASSERT_EQ(cache.stats().leased_blocks, 0u);
      ASSERT_EQ(cache.stats().promised_blocks, 0u);
      now_s += 2;
    }
    expect_all_returned(cache);
    EXPECT_EQ(cache.stats().prefetched_useful_blocks + cache.stats().prefetched_wasted_blocks,
              cache.stats().loaded_blocks);
  }
  EXPECT_GT(joined, 3000u);
  EXPECT_GT(partly, 200u);
  EXPECT_GT(computed, 3000u);
  EXPECT_GT(waits, 10u);
}

}  // namespace
}  // namespace tiercel
