// The engine with the real model, through its public API: what requests do to the cache, and what its methods do to it.
#include "tiercel/engine.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/model/test_model.h"

namespace tiercel {
namespace {

std::string long_text() {
  std::string text = "A list of facts.";
  for (int i = 0; i < 40; ++i)
    text += " Fact " + std::to_string(i) + " is about the number " + std::to_string(i * i) + ".";
  return text;
}

TEST(Engine, EqualPromptsAtOnceAreComputedOnce) {
  REQUIRE_TEST_MODEL();
  Engine engine = Engine::open({.model = test_model_path()}).value();
  const std::size_t prompt_tokens = engine.tokenize(long_text()).value().size();
  std::vector<ResponseFuture> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(engine.process_request({.text = long_text(), .max_tokens = 4}));
  std::vector<std::string> answers;
  for (ResponseFuture& future : futures) answers.push_back(future.get().value().text);
  for (const std::string& answer : answers) EXPECT_EQ(answer, answers[0]);
  const EngineStats stats = engine.get_stats();
  EXPECT_EQ(stats.prompt_tokens, 4 * prompt_tokens);
  EXPECT_LE(stats.computed_prompt_tokens, prompt_tokens + 3 * engine.info().block_tokens)
      << "of the last three, their tails only";
  EXPECT_EQ(stats.prompt_tokens, stats.reused_tokens + stats.computed_prompt_tokens);
}

// A prompt that meets a cached one in the middle of a block gets the answer, to the last bit of its log-probabilities,
// of one computed without a cache.
TEST(Engine, APartOfABlockFromTheCacheChangesNoBit) {
  REQUIRE_TEST_MODEL();
  for (const bool deterministic : {false, true}) {
    const EngineOptions options{.model = test_model_path(), .deterministic = deterministic};
    Engine cached = Engine::open(options).value();
    EngineOptions without = options;
    without.cache.prefix_reuse = false;
    Engine computed = Engine::open(without).value();
    const std::vector<TokenId> stem = cached.tokenize(long_text()).value();
    ASSERT_TRUE(cached.process_request({.tokens = stem, .max_tokens = 1}).get().ok());
    std::size_t partly_reused = 0;
    for (const std::size_t common : {7u, 45u, 100u, 203u, 331u, 401u}) {
      std::vector<TokenId> prompt(stem.begin(), stem.begin() + static_cast<std::ptrdiff_t>(common));
      prompt.insert(prompt.end(), stem.begin() + 20, stem.begin() + 90);
      const Response hit = cached.process_request({.tokens = prompt, .max_tokens = 16}).get().value();
      const Response miss = computed.process_request({.tokens = prompt, .max_tokens = 16}).get().value();
      EXPECT_GE(hit.reused_tokens, common);
      partly_reused += hit.reused_tokens % 32 != 0;
      EXPECT_EQ(hit.tokens, miss.tokens) << common;
      EXPECT_EQ(hit.logprobs, miss.logprobs) << common;
    }
    EXPECT_GE(partly_reused, 5u);
  }
}

TEST(Engine, APrefixIsWarmedPinnedAndForgotten) {
  REQUIRE_TEST_MODEL();
  Engine engine = Engine::open({.model = test_model_path(), .cache = {.capacity_bytes = 64u << 20}}).value();
  const std::vector<TokenId> tokens = engine.tokenize(long_text()).value();
  const std::size_t whole_blocks = (tokens.size() - 1) / 32 * 32;
  EXPECT_EQ(engine.pin(tokens).status().code(), StatusCode::NotFound);

  const auto warmed = engine.process_request({.tokens = tokens, .max_tokens = 0}).get();
  ASSERT_TRUE(warmed.ok()) << warmed.status().to_string();
  EXPECT_TRUE(warmed->tokens.empty());
  EXPECT_EQ(engine.lookup(tokens), whole_blocks);
  EXPECT_EQ(engine.pin(tokens).value(), whole_blocks);

  // 91 blocks fit; these prompts need more.
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(engine.process_request({.text = std::to_string(i) + long_text(), .max_tokens = 0}).get().ok());
  }
  EXPECT_GT(engine.get_stats().evicted_blocks, 0u);
  EXPECT_EQ(engine.lookup(tokens), whole_blocks);
  EXPECT_EQ(engine.unpin(tokens), 1u);
  EXPECT_EQ(engine.lookup(tokens, "another tenant"), 0u);
  EXPECT_GE(engine.invalidate(tokens), 1u);
  EXPECT_LT(engine.lookup(tokens), whole_blocks);
  EXPECT_GT(engine.invalidate_all(), 0u);
  EXPECT_EQ(engine.lookup(tokens), 0u);
}

}  // namespace
}  // namespace tiercel
