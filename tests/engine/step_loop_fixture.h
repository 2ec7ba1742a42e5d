// A step loop around the fake model, whose accounts are checked at the end of every test.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "kv/kv_cache_state.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"

namespace tiercel {

// The engine of the real thing, around the fake model.
struct Harness {
  struct Options {
    std::size_t blocks = 400;
    bool prefix_reuse = true;
    bool deterministic = false;
    bool arithmetic_matters = false;
    std::size_t max_sequences = 16;
    std::size_t max_tokens = 64;
    std::size_t max_queued_requests = 10000;
    std::vector<std::shared_ptr<TierStore>> tiers = {};
    bool by_hand = false;
    std::function<Sequence::Clock::time_point()> now = Sequence::Clock::now;
  };
  Harness() : Harness(Options()) {}
  explicit Harness(const Options& options)
      : tokenizer(make_byte_tokenizer()),
        model(options.max_sequences + 8, options.deterministic || options.arithmetic_matters),
        cache(KvCache::open({.capacity_bytes = options.blocks * FakeModel::layout().block_bytes(),
                             .prefix_reuse = options.prefix_reuse,
                             .tiers = options.tiers},
                            FakeModel::layout(), model.fingerprint())
                  .value()),
        stats({.tier_names = tier_names(), .now = options.now}),
        loop({.limits = {.max_sequences = options.max_sequences,
                         .max_tokens = options.max_tokens,
                         .max_logit_rows = options.max_sequences + 8,
                         .deterministic = options.deterministic},
              .max_queued_requests = options.max_queued_requests,
              .tier_names = tier_names(),
              .by_hand = options.by_hand,
              .now = options.now},
             model, cache, tokenizer, stats) {}
  ~Harness() { check_accounts(); }

  std::vector<std::string> tier_names() const {
    std::vector<std::string> names;
    for (const KvTierStats& tier : cache.stats().tiers) names.push_back(tier.name);
    return names;
  }

  ResponseFuture submit(Request request, Sequence::Clock::time_point now = Sequence::Clock::now()) {
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096});
    EXPECT_TRUE(prompt.ok()) << prompt.status().to_string();
    ++submitted;
    submitted_prompt_tokens += prompt->size();
    auto choices = make_sequences(std::move(request), std::move(*prompt), 4096, now);
    ResponseFuture future(choices.front()->promise);
    loop.submit(std::move(choices));
    return future;
  }

  // After the loop is closed: nothing is held, every request has one outcome, every prompt token is accounted for, and
  // the statistics say what the loop's users, the cache and the model know by themselves. Every test ends with it.
  void check_accounts() {
    loop.close();
    const EngineStats s = stats.snapshot();
    expect_identities(s);
    EXPECT_EQ(s.submitted, submitted);
    EXPECT_EQ(s.queued + s.running, 0u);
    EXPECT_EQ(s.total.count, s.completed);
    EXPECT_LE(s.prompt_tokens, submitted_prompt_tokens);
    if (s.completed == s.submitted) {
      EXPECT_EQ(s.prompt_tokens, submitted_prompt_tokens);
    }
    EXPECT_LE(s.computed_prompt_tokens + s.recomputed_prompt_tokens, model.tokens_in_all);
    EXPECT_EQ(KvCacheState::of(cache).audit(), "") << "counted from the blocks themselves";
    // A tier's worker holds blocks for moments, and may begin with the next ones at any.
    KvCacheStats c = cache.stats();
    for (int i = 0; i < 10000 && !c.tiers.empty() && c.leased_blocks > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      c = cache.stats();
    }
    EXPECT_LE(s.reused_tokens, c.matched_tokens);
    for (std::size_t i = 0; i < c.tiers.size(); ++i) EXPECT_LE(s.hits[i + 1].tokens, c.tiers[i].matched_tokens);
    if (s.preemptions == 0 && s.submitted == c.admitted) {  // each was admitted once
      EXPECT_EQ(s.reused_tokens, c.matched_tokens);
      for (std::size_t i = 0; i < c.tiers.size(); ++i) EXPECT_EQ(s.hits[i + 1].tokens, c.tiers[i].matched_tokens);
    }
    EXPECT_EQ(c.leased_blocks, 0u);
    EXPECT_EQ(c.promised_blocks, 0u);
    EXPECT_EQ(c.free_blocks + c.cached_blocks, c.capacity_blocks);
  }

  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  FakeModel model;
  KvCache cache;
  StatsRecorder stats;
  StepLoop loop;
  std::atomic<std::size_t> submitted = 0, submitted_prompt_tokens = 0;
};

inline std::vector<TokenId> random_tokens(std::mt19937& random, std::size_t count) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 256);
  return tokens;
}

// Prompts that share prefixes in every way: a few stems, cut anywhere, with a tail of their own or none.
inline std::vector<std::vector<TokenId>> random_prompts(std::mt19937& random, std::size_t count) {
  std::vector<std::vector<TokenId>> stems, prompts;
  for (int i = 0; i < 4; ++i) stems.push_back(random_tokens(random, 100));
  for (std::size_t i = 0; i < count; ++i) {
    auto prompt = stems[random() % 4];
    prompt.resize(1 + random() % 100);
    const auto tail = random_tokens(random, random() % 12);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    prompts.push_back(prompt);
  }
  return prompts;
}

}  // namespace tiercel
