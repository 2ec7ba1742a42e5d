// Prompts of which a tier has a part.
#include <chrono>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/step_loop_fixture.h"
#include "tests/kv/tier_fixture.h"
#include "tests/tier/forwarding_store.h"
#include "tiercel/tier_store.h"

namespace tiercel {
namespace {

TEST(StepLoop, APromptIsLoadedFromItsEndWhileItIsComputed) {
  for (const bool deterministic : {false, true}) {
    const auto store = std::make_shared<SlowStore>(memory_tier({.capacity_bytes = std::size_t{8} << 20}).value());
    store->bytes_per_s = 1000 * static_cast<double>(FakeModel::layout().block_bytes());
    Harness harness({.blocks = 120, .deterministic = deterministic, .tiers = {store}});
    harness.model.token_time = std::chrono::microseconds(125);  // a block as slow as in the tier
    std::mt19937 random(11);
    std::vector<std::vector<TokenId>> prompts;
    for (int i = 0; i < 6; ++i) prompts.push_back(random_tokens(random, 400));
    std::size_t split = 0;
    for (int round = 0; round < 40 && (round < 3 || split < 3); ++round) {
      for (const auto& prompt : prompts) {
        const Response response = harness.submit({.tokens = prompt, .max_tokens = 8}).get().value();
        const std::size_t boundary = (prompt.size() - 1) / 8 * 8;
        ASSERT_EQ(response.tokens, FakeModel::expected_output(prompt, 8, boundary, deterministic));
        std::size_t reused = 0;
        for (const auto& [tier, tokens] : response.reused_by_tier) reused += tokens;
        EXPECT_EQ(reused, response.reused_tokens);
        EXPECT_LE(reused, boundary);
        split += response.reused_by_tier[1].second > 0 && reused < boundary;
      }
    }
    EXPECT_GE(split, 3u);
    harness.check_accounts();
    const KvCacheStats cache = harness.cache.stats();
    EXPECT_EQ(cache.matched_tokens, harness.stats.snapshot().reused_tokens);
  }
}

TEST(StepLoop, WhatLeftTheHotArenaComesBackFromATier) {
  Harness harness({.blocks = 20, .tiers = {memory_tier({.capacity_bytes = std::size_t{8} << 20}).value()}});
  harness.model.token_time = std::chrono::microseconds(50);  // longer than loading takes
  std::mt19937 random(7);
  const auto prompts = random_prompts(random, 60);
  for (int round = 0; round < 3; ++round) {
    std::vector<ResponseFuture> futures;
    for (const auto& prompt : prompts) {
      futures.push_back(harness.submit({.tokens = prompt, .max_tokens = 8}));
      if (futures.size() % 5 != 0) continue;  // some wait alone, some beside others
      EXPECT_TRUE(futures.back().get().ok());
    }
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (i % 5 == 4) continue;
      const auto response = futures[i].get();
      ASSERT_TRUE(response.ok()) << response.status().to_string();
      ASSERT_EQ(response->tokens, FakeModel::expected_output(prompts[i], 8)) << "request " << i;
    }
  }
  EXPECT_GT(harness.cache.stats().evicted_blocks, 0u);
  EXPECT_GT(harness.cache.stats().loaded_blocks, 0u);
}

// What a tier was to give and did not is counted apart.
TEST(StepLoop, TokensOfAFailedLoadAreRecomputed) {
  const auto store = std::make_shared<FaultyStore>(std::size_t{1} << 20);
  store->durable = true;  // flush() waits for it
  Harness harness({.blocks = 10, .tiers = {store}});
  const std::vector<TokenId> prompt(60, 'p');  // too short to say what computing takes: what a tier has is loaded
  const auto ask = [&](TokenId first) {
    std::vector<TokenId> tokens = prompt;
    tokens.front() = first;
    return harness.submit({.tokens = tokens, .max_tokens = 1, .ignore_end_of_text = true}).get().value();
  };
  for (const TokenId first : {'a', 'b', 'c'}) {  // each pushes out the one before
    ask(first);
    ASSERT_TRUE(harness.cache.flush().ok());
  }
  EXPECT_EQ(harness.stats.snapshot().recomputed_prompt_tokens, 0u);
  const Response found = ask('a');
  EXPECT_GT(found.reused_tokens, 0u);
  store->fail_read_one_in = 1;
  const std::uint64_t computed = harness.stats.snapshot().computed_prompt_tokens;
  const Response failed = ask('b');
  const EngineStats s = harness.stats.snapshot();
  EXPECT_EQ(s.recomputed_prompt_tokens + failed.reused_tokens, 56u) << "whole blocks before the last token";
  EXPECT_EQ(s.computed_prompt_tokens, computed + 4);
  EXPECT_EQ(s.hits[1].tier, "faulty");
  EXPECT_EQ(s.hits[1].tokens, found.reused_by_tier[1].second);
}

}  // namespace
}  // namespace tiercel
