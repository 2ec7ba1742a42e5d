// What requests are answered, whatever runs beside them.
#include <sys/mman.h>

#include <algorithm>
#include <coroutine>
#include <future>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/step_loop_fixture.h"

namespace tiercel {
namespace {

TEST(StepLoop, AnswersAsIfAloneHoweverRequestsShareBlocksAndBatches) {
  for (const std::size_t blocks : {400u, 40u, 20u}) {  // 20: requests must wait for each other's blocks, and evict
    for (const bool reuse : {true, false}) {
      std::mt19937 random(static_cast<unsigned>(blocks));
      Harness harness({.blocks = blocks, .prefix_reuse = reuse});
      const auto prompts = random_prompts(random, 300);
      std::vector<ResponseFuture> futures;
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        futures.push_back(
            harness.submit({.priority = static_cast<int>(i % 3), .tokens = prompts[i], .max_tokens = 30}));
      }
      std::uint64_t reused = 0;
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        const auto response = futures[i].get();
        ASSERT_TRUE(response.ok()) << response.status().to_string();
        const auto expected = FakeModel::expected_output(prompts[i], 30);
        ASSERT_EQ(response->tokens, expected) << "request " << i << " of " << blocks << " blocks";
        ASSERT_EQ(response->text, std::string(expected.begin(), expected.end()));
        ASSERT_EQ(response->finish_reason, expected.size() < 30 ? FinishReason::Stop : FinishReason::Length);
        ASSERT_EQ(response->logprobs.size(), expected.size());
        ASSERT_LT(response->reused_tokens, prompts[i].size());
        reused += response->reused_tokens;
      }
      harness.check_accounts();
      EXPECT_EQ(harness.stats.snapshot().completed, prompts.size());
      EXPECT_EQ(harness.stats.snapshot().reused_tokens, reused);
      EXPECT_EQ(reused > 0, reuse);
      EXPECT_LE(harness.model.most_tokens_in_step, 64u);
      EXPECT_LE(harness.model.most_chunks_in_step, 2 * 16u) << "a prompt and its tail for each sequence";
      if (blocks == 400) {
        EXPECT_GT(harness.model.most_chunks_in_step, 4u) << "requests did not share steps";
      }
    }
  }
}

TEST(StepLoop, DeterministicModeNeverMixesArithmetic) {
  std::mt19937 random(5);
  Harness harness({.blocks = 60, .deterministic = true});
  const auto prompts = random_prompts(random, 300);
  std::vector<ResponseFuture> futures;
  for (const auto& prompt : prompts) futures.push_back(harness.submit({.tokens = prompt, .max_tokens = 20}));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto response = futures[i].get();
    ASSERT_TRUE(response.ok());
    const std::size_t boundary = (prompts[i].size() - 1) / 8 * 8;
    ASSERT_EQ(response->tokens, FakeModel::expected_output(prompts[i], 20, boundary, true)) << i;
    ASSERT_LE(response->reused_tokens, boundary);
  }
  harness.check_accounts();
  EXPECT_GT(harness.stats.snapshot().reused_tokens, 0u);
}

// Without deterministic mode too, a request that is alone gets the same arithmetic from the cache as without one.
TEST(StepLoop, AloneACachedPromptIsComputedAsAnUncachedOne) {
  std::mt19937 random(6);
  Harness cached({.arithmetic_matters = true}), uncached({.prefix_reuse = false, .arithmetic_matters = true});
  std::uint64_t reused = 0;
  for (const auto& prompt : random_prompts(random, 200)) {
    const auto with = cached.submit({.tokens = prompt, .max_tokens = 20}).get(),
               without = uncached.submit({.tokens = prompt, .max_tokens = 20}).get();
    ASSERT_TRUE(with.ok() && without.ok());
    ASSERT_EQ(with->tokens, without->tokens);
    ASSERT_EQ(without->reused_tokens, 0u);
    reused += with->reused_tokens;
  }
  EXPECT_GT(reused, 3000u);
}

TEST(StepLoop, AnIdleOneMakesTheMemoryOfBlocksReady) {
  Harness h({.blocks = 4000});
  const KvCacheStats stats = h.cache.stats();
  const std::size_t bytes = stats.capacity_blocks * stats.block_bytes;
  const auto resident = [&] {
    std::vector<unsigned char> pages((bytes + 4095) / 4096);
    EXPECT_EQ(mincore(h.cache.block(0), bytes, pages.data()), 0);
    return std::ranges::all_of(pages, [](unsigned char page) { return (page & 1) != 0; });
  };
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!resident() && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(resident() || !h.cache.prefault()) << "where the system can";
}

TEST(StepLoop, StreamsEveryTokenInOrder) {
  Harness harness;
  std::vector<TokenId> tokens;
  std::string text;
  auto future = harness.submit({.text = "stream", .max_tokens = 25, .on_token = [&](const TokenEvent& event) {
                                  tokens.push_back(event.token);
                                  text += event.text;
                                }});
  const auto response = future.get();
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(tokens, response->tokens);
  EXPECT_EQ(text, response->text);
  EXPECT_FALSE(future.valid());
}

TEST(StepLoop, StopStringsEndTheTextBeforeThem) {
  Harness harness;
  const auto whole = harness.submit({.text = "stop here", .max_tokens = 40, .ignore_end_of_text = true}).get();
  ASSERT_TRUE(whole.ok());
  const std::string stop = whole->text.substr(10, 3);
  const auto cut =
      harness.submit({.text = "stop here", .max_tokens = 40, .stop = {"#", stop}, .ignore_end_of_text = true}).get();
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->text, whole->text.substr(0, whole->text.find(stop)));
  EXPECT_EQ(cut->finish_reason, FinishReason::Stop);
}

TEST(StepLoop, WhatWasHeldBackForAStopStringIsToldAtTheEnd) {
  Harness harness;
  int held_back = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string prompt = "prompt " + std::to_string(i);
    const auto whole = harness.submit({.text = prompt, .max_tokens = 40}).get();
    ASSERT_TRUE(whole.ok());
    if (whole->finish_reason != FinishReason::Stop || whole->text.size() < 2) continue;
    // The text ends, by the end token, in the middle of what may become a stop string.
    const std::string stop = whole->text.substr(whole->text.size() - 2) + "#";
    std::string text;
    std::vector<TokenId> tokens;
    auto future =
        harness.submit({.text = prompt, .max_tokens = 40, .stop = {stop}, .on_token = [&](const TokenEvent& event) {
                          text += event.text;
                          if (event.token != kNoToken) tokens.push_back(event.token);
                          held_back += event.token == kNoToken;
                        }});
    const auto response = future.get();
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->text, whole->text);
    EXPECT_EQ(text, response->text);
    EXPECT_EQ(tokens, response->tokens);
  }
  EXPECT_GT(held_back, 20);
}

TEST(StepLoop, ScoresPromptsChunkByChunkBesideOthers) {
  std::mt19937 random(9);
  Harness harness;
  const auto prompts = random_prompts(random, 40);
  std::vector<ResponseFuture> futures;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    futures.push_back(harness.submit(
        {.tokens = prompts[i], .max_tokens = i % 2 ? 5u : 0u, .prompt_logprobs = i % 3 != 1 || i % 2 == 0}));
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto response = futures[i].get();
    ASSERT_TRUE(response.ok());
    ASSERT_EQ(response->prompt_tokens, prompts[i]);
    if (i % 3 == 1 && i % 2 == 1) {
      ASSERT_TRUE(response->prompt_logprobs.empty());
      continue;
    }
    ASSERT_EQ(response->reused_tokens, 0u);
    ASSERT_EQ(response->prompt_logprobs.size(), prompts[i].size() - 1);
    std::uint64_t digest = 0;
    for (std::size_t t = 0; t + 1 < prompts[i].size(); ++t) {
      digest = FakeModel::digest_of(digest, prompts[i][t], t, Arithmetic::Any);
      const float logit = FakeModel::next_of(digest) == prompts[i][t + 1] ? 10.0f : 0.0f;
      ASSERT_NEAR(response->prompt_logprobs[t], logit - std::log(std::exp(10.0) + kFakeVocabulary - 1), 1e-4);
    }
    if (i % 2 == 0) {
      ASSERT_TRUE(response->tokens.empty());
    }
  }
  harness.check_accounts();
}

// The least of a coroutine: runs until it waits, resumes where the response is ready, ends by itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

Request four_tokens(std::string prompt) {
  Request request;
  request.text = std::move(prompt);
  request.max_tokens = 4;
  request.ignore_end_of_text = true;
  return request;
}

Detached await_two(Harness& harness, std::promise<std::size_t>& result) {
  ResponseFuture asked = harness.submit(four_tokens("one"));
  auto first = co_await asked;
  asked = harness.submit(four_tokens(first->text));
  auto second = co_await asked;
  result.set_value(first->tokens.size() + second->tokens.size());
}

TEST(StepLoop, FuturesCanBeAwaitedAndContinued) {
  Harness harness;
  std::promise<std::size_t> awaited, continued;
  await_two(harness, awaited);
  EXPECT_EQ(awaited.get_future().get(), 8u);
  harness.submit(four_tokens("then")).then([&](Result<Response> r) { continued.set_value(r->tokens.size()); });
  EXPECT_EQ(continued.get_future().get(), 4u);
}

}  // namespace
}  // namespace tiercel
