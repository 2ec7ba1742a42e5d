#include "engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <future>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "kv/kv_cache_state.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"
#include "tests/kv/tier_fixture.h"
#include "tiercel/tier_store.h"

namespace tiercel {
namespace {

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
    // A tier's worker holds blocks for moments.
    for (int i = 0; i < 10000 && !cache.stats().tiers.empty() && cache.stats().leased_blocks > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(KvCacheState::of(cache).audit(), "") << "counted from the blocks themselves";
    const KvCacheStats c = cache.stats();
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

std::vector<TokenId> random_tokens(std::mt19937& random, std::size_t count) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 256);
  return tokens;
}

// Prompts that share prefixes in every way: a few stems, cut anywhere, with a tail of their own or none.
std::vector<std::vector<TokenId>> random_prompts(std::mt19937& random, std::size_t count) {
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

// Its blocks take a millisecond each to be read.
class SlowStore final : public TierStore {
 public:
  std::string_view name() const override { return "slow"; }
  bool is_durable() const override { return false; }
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override {
    return inner_->open(layout, fingerprint);
  }
  std::size_t leading(std::span<const BlockKey> keys) const override { return inner_->leading(keys); }
  void read(std::span<TierRead> reads) override {
    inner_->read(reads);
    std::this_thread::sleep_for(std::chrono::milliseconds(reads.size()));
  }
  Status write(std::span<const TierRecord> records) override { return inner_->write(records); }
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override {
    return inner_->erase(parent, tokens);
  }
  Status erase_tenant(std::uint64_t tenant) override { return inner_->erase_tenant(tenant); }
  Status erase_all() override { return inner_->erase_all(); }
  Status flush() override { return {}; }
  TierStats stats() const override { return inner_->stats(); }

 private:
  const std::shared_ptr<TierStore> inner_ = memory_tier({.capacity_bytes = std::size_t{8} << 20}).value();
};

TEST(StepLoop, APromptIsLoadedFromItsEndWhileItIsComputed) {
  for (const bool deterministic : {false, true}) {
    Harness harness({.blocks = 120, .deterministic = deterministic, .tiers = {std::make_shared<SlowStore>()}});
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

TEST(StepLoop, MoreChoicesThanTheQueueHoldsCanNeverBeDrawn) {
  Harness harness({.max_queued_requests = 3});
  Request request{.text = "several", .max_tokens = 2, .best_of = 4};
  request.sampling.temperature = 1;
  const auto refused = harness.submit(request).get();
  EXPECT_EQ(refused.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(refused.status().message().find("max_queued_requests"), std::string::npos) << refused.status().message();
  request.best_of = 3;
  EXPECT_TRUE(harness.submit(request).get().ok());
  harness.check_accounts();
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

TEST(StepLoop, HigherPriorityGoesFirst) {
  Harness harness({.max_sequences = 1});
  std::vector<int> order;
  std::vector<ResponseFuture> futures;
  // The first occupies the only place while the others queue up behind it.
  std::promise<void> all_queued;
  auto gate = all_queued.get_future().share();
  futures.push_back(
      harness.submit({.text = "first", .max_tokens = 1, .on_token = [gate](const TokenEvent&) { gate.wait(); }}));
  for (const int priority : {0, 2, 1, 2, -1}) {
    futures.push_back(
        harness.submit({.text = "next",
                        .priority = priority,
                        .max_tokens = 1,
                        .ignore_end_of_text = true,
                        .on_token = [&order, priority](const TokenEvent&) { order.push_back(priority); }}));
  }
  all_queued.set_value();
  for (auto& future : futures) ASSERT_TRUE(future.get().ok());
  EXPECT_EQ(order, (std::vector<int>{2, 2, 1, 0, -1}));
}

TEST(StepLoop, AFullQueueRejectsAndLosesNothing) {
  Harness harness({.max_sequences = 1, .max_queued_requests = 3});
  std::promise<void> release;
  auto gate = release.get_future().share();
  std::promise<void> started;
  auto running = harness.submit(
      {.text = "running", .max_tokens = 1, .ignore_end_of_text = true, .on_token = [&, gate](const TokenEvent&) {
         started.set_value();
         gate.wait();
       }});
  started.get_future().wait();
  std::vector<ResponseFuture> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(harness.submit({.text = "waits", .max_tokens = 2}));
  const auto refused = harness.submit({.text = "one too many", .max_tokens = 2}).get();
  EXPECT_EQ(refused.status().code(), StatusCode::Rejected);
  release.set_value();
  EXPECT_TRUE(running.get().ok());
  for (auto& future : waiting) EXPECT_TRUE(future.get().ok());
  harness.check_accounts();
  EXPECT_EQ(harness.stats.snapshot().rejected, 1u);
}

TEST(StepLoop, ARequestLargerThanTheCacheFailsAloneAndSaysWhatToChange) {
  Harness harness({.blocks = 10});
  auto large = harness.submit({.text = "needs more than eighty tokens", .max_tokens = 100});
  auto small = harness.submit({.text = "fits", .max_tokens = 10});
  const auto refused = large.get();
  EXPECT_EQ(refused.status().code(), StatusCode::ResourceExhausted);
  EXPECT_NE(refused.status().message().find("capacity"), std::string::npos) << refused.status().message();
  EXPECT_TRUE(small.get().ok());
  harness.check_accounts();
  EXPECT_EQ(harness.stats.snapshot().failed, 1u);
}

TEST(StepLoop, AFailedStepFailsWhatWasRunningAndTheEngineGoesOn) {
  Harness harness;
  harness.model.fail_next_step = true;
  EXPECT_EQ(harness.submit({.text = "unlucky"}).get().status().code(), StatusCode::Internal);
  EXPECT_TRUE(harness.submit({.text = "lucky", .max_tokens = 3}).get().ok());
  harness.check_accounts();
}

TEST(StepLoop, CancelledAndClosedRequestsEndAndGiveEverythingBack) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    Harness harness({.blocks = 60});
    std::vector<ResponseFuture> futures;
    for (const auto& prompt : random_prompts(random, 60)) {
      futures.push_back(harness.submit({.tokens = prompt, .max_tokens = 200, .ignore_end_of_text = true}));
      if (random() % 3 == 0) futures[random() % futures.size()].cancel();
      if (random() % 8 == 0) std::this_thread::yield();
    }
    if (seed % 2 == 0) harness.loop.close();
    for (auto& future : futures) {
      if (seed % 2 == 1) future.cancel();
      const auto response = future.get();
      ASSERT_TRUE(response.ok() || response.status().code() == StatusCode::Cancelled) << response.status().to_string();
    }
    EXPECT_EQ(harness.submit({.text = "after"}).get().ok(), seed % 2 == 1);
    harness.check_accounts();
  }
}

TEST(StepLoop, RequestsEndInTimeOrWithDeadlineExceeded) {
  using Clock = Sequence::Clock;
  Clock::time_point now = Clock::now();
  Harness harness({.max_sequences = 2, .by_hand = true, .now = [&] { return now; }});
  const auto ms = [](int n) { return std::chrono::milliseconds(n); };
  // Two run, and one of them too long; one waits too long; one has a deadline that it keeps.
  auto long_one =
      harness.submit({.text = "one", .max_tokens = 1000, .ignore_end_of_text = true, .timeout_ms = 50}, now);
  auto short_one =
      harness.submit({.text = "two", .max_tokens = 5, .ignore_end_of_text = true, .deadline = now + ms(50)}, now);
  std::size_t drawn = 0;
  auto endless = harness.submit({.text = "four",
                                 .priority = -1,
                                 .max_tokens = 1000,
                                 .ignore_end_of_text = true,
                                 .on_token = [&](const TokenEvent&) { ++drawn; }},
                                now);
  auto waits = harness.submit({.text = "three", .priority = -2, .timeout_ms = 49}, now);
  auto passed = harness.submit({.text = "late already", .deadline = now}, now);
  for (int step = 0; step < 60; ++step, now += ms(1)) harness.loop.run_one();
  EXPECT_EQ(passed.get().status().code(), StatusCode::DeadlineExceeded);
  EXPECT_TRUE(short_one.get().ok());
  EXPECT_EQ(waits.get().status().code(), StatusCode::DeadlineExceeded);
  const auto ended = long_one.get();
  EXPECT_EQ(ended.status().code(), StatusCode::DeadlineExceeded);
  EXPECT_NE(ended.status().message().find("tokens drawn"), std::string::npos) << ended.status().message();
  EXPECT_FALSE(endless.ready());
  EXPECT_EQ(harness.cache.stats().leased_blocks, FakeModel::layout().blocks_for(4 + drawn - 1))
      << "blocks of what ended are still held";
  endless.cancel();
  harness.loop.run_one();
  EXPECT_EQ(endless.get().status().code(), StatusCode::Cancelled);
  harness.check_accounts();
}

TEST(StepLoop, DroppingTheFutureCancelsWhereAskedFor) {
  Harness harness({.by_hand = true});
  for (const bool cancels : {true, false}) {
    auto future =
        harness.submit({.text = "drop", .max_tokens = 100, .ignore_end_of_text = true, .cancel_when_dropped = cancels});
    harness.loop.run_one();
    future =
        harness.submit({.text = "next", .max_tokens = 2, .ignore_end_of_text = true, .cancel_when_dropped = cancels});
    { const ResponseFuture moved = std::move(future); }
    harness.loop.run_one();
    EXPECT_EQ(harness.loop.idle(), cancels);
  }
  bool continued = false;
  harness.submit({.text = "then", .max_tokens = 2, .cancel_when_dropped = true}).then([&](Result<Response> response) {
    continued = response.ok();
  });
  while (!harness.loop.idle() || !continued) harness.loop.run_one();
  EXPECT_TRUE(continued) << "a future that is continued is not dropped";
  EXPECT_EQ(harness.stats.snapshot().cancelled, 2u);
}

TEST(StepLoop, ThePreemptedGoOnWithTheSameTokens) {
  for (const bool deterministic : {false, true}) {
    std::uint32_t preemptions = 0;
    for (unsigned seed = 0; seed < 60; ++seed) {
      std::mt19937 random(seed);
      const bool tier = seed % 2 == 0;
      Harness harness({.blocks = 20 + random() % 30,
                       .deterministic = deterministic,
                       .max_sequences = 2 + random() % 4,
                       .tiers = tier ? std::vector{memory_tier({.capacity_bytes = std::size_t{1} << 20}).value()}
                                     : std::vector<std::shared_ptr<TierStore>>(),
                       .by_hand = true});
      const auto prompts = random_prompts(random, 30);
      std::vector<ResponseFuture> futures;
      std::vector<std::vector<TokenId>> streamed(prompts.size());
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        Request request{.priority = static_cast<int>(random() % 4), .tokens = prompts[i], .max_tokens = 30};
        request.prompt_logprobs = random() % 6 == 0;
        request.on_token = [&streamed, i](const TokenEvent& event) { streamed[i].push_back(event.token); };
        futures.push_back(harness.submit(std::move(request)));
        for (unsigned steps = random() % 6; steps > 0; --steps) harness.loop.run_one();
      }
      for (int step = 0; step < 5000 && !harness.loop.idle(); ++step) {
        // What a tier loads has a thread of its own.
        if (!harness.loop.run_one()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      std::uint64_t reused = 0;
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        ASSERT_TRUE(futures[i].ready()) << "starved, seed " << seed;
        const auto response = futures[i].get();
        ASSERT_TRUE(response.ok()) << response.status().to_string();
        const std::size_t boundary = (prompts[i].size() - 1) / 8 * 8;
        ASSERT_EQ(response->tokens, FakeModel::expected_output(prompts[i], 30, boundary, deterministic)) << seed;
        ASSERT_EQ(response->tokens, streamed[i]) << "a token was told twice, or not";
        if (!response->prompt_logprobs.empty()) {
          ASSERT_EQ(response->prompt_logprobs.size(), prompts[i].size() - 1);
        }
        preemptions += response->preemptions;
        reused += response->reused_tokens;
      }
      harness.check_accounts();
      ASSERT_EQ(harness.stats.snapshot().reused_tokens, reused);
      std::size_t tokens = 0;
      for (const auto& prompt : prompts) tokens += prompt.size();
      ASSERT_EQ(harness.stats.snapshot().prompt_tokens, tokens) << "a prompt counts once, preempted or not";
    }
    EXPECT_GT(preemptions, 100u);
  }
}

TEST(StepLoop, ChoicesShareThePromptAndDifferBySeed) {
  for (const std::size_t blocks : {200u, 12u}) {  // 12: no room to fork; they go one after the other
    Harness harness({.blocks = blocks, .max_sequences = 6, .by_hand = true});
    Request request{.tokens = std::vector<TokenId>(50, 'x'), .max_tokens = 20};
    request.sampling.temperature = 4;
    request.ignore_end_of_text = true;
    const auto answer_of = [&](const Request& asked) {
      auto future = harness.submit(asked);
      for (int step = 0; step < 500 && !harness.loop.idle(); ++step) harness.loop.run_one();
      return future.get().value();
    };
    const Response alone = answer_of(request);
    EXPECT_TRUE(alone.choices.empty());
    std::vector<std::vector<TokenId>> streamed(5);
    request.n = 5;
    request.on_token = [&](const TokenEvent& event) { streamed[event.choice].push_back(event.token); };
    request.cache_salt = "new";
    const Response several = answer_of(request);
    ASSERT_EQ(several.choices.size(), 5u);
    EXPECT_EQ(several.tokens, alone.tokens) << "the first choice is what one alone would have been";
    EXPECT_EQ(several.text, alone.text);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(several.choices[i].tokens, streamed[i]);
      EXPECT_EQ(several.choices[i].tokens.size(), 20u);
      for (std::size_t j = 0; j < i; ++j) EXPECT_NE(several.choices[i].tokens, several.choices[j].tokens);
    }
    EXPECT_EQ(harness.stats.snapshot().prompt_tokens, 100u) << "computed once for all choices";
    EXPECT_EQ(harness.stats.snapshot().completed, 2u) << "one request, however many choices";
    request.n = 2;
    request.best_of = 5;
    const Response best = answer_of(request);
    ASSERT_EQ(best.choices.size(), 2u);
    const auto mean = [](const Choice& choice) {
      double sum = 0;
      for (const float logprob : choice.logprobs) sum += static_cast<double>(logprob);
      return sum / static_cast<double>(choice.logprobs.size());
    };
    std::vector<double> all;
    for (const Choice& choice : several.choices) all.push_back(mean(choice));
    std::ranges::sort(all, std::greater());
    EXPECT_NEAR(mean(best.choices[0]), all[0], 1e-5);
    EXPECT_NEAR(mean(best.choices[1]), all[1], 1e-5);
    harness.check_accounts();
  }
}

TEST(StepLoop, ChoicesAreCancelledTogether) {
  Harness harness({.by_hand = true});
  for (const int steps : {0, 1, 3}) {
    Request request{.text = "several", .max_tokens = 50, .ignore_end_of_text = true, .n = 4};
    request.sampling.temperature = 1;
    auto future = harness.submit(std::move(request));
    for (int i = 0; i < steps; ++i) harness.loop.run_one();
    future.cancel();
    harness.loop.run_one();
    ASSERT_TRUE(future.ready());
    EXPECT_EQ(future.get().status().code(), StatusCode::Cancelled);
    EXPECT_TRUE(harness.loop.idle());
  }
  EXPECT_EQ(harness.stats.snapshot().cancelled, 3u);
  harness.check_accounts();
}

TEST(StepLoop, EveryEndIsOneOutcomeAndIsCountedForItsEndpoint) {
  using Clock = Sequence::Clock;
  Clock::time_point now = Clock::now();
  Harness harness({.blocks = 40, .max_queued_requests = 6, .by_hand = true, .now = [&] { return now; }});
  const auto ask = [&](Request request) { return harness.submit(std::move(request), now); };
  Request completes{.text = "completes", .max_tokens = 4, .ignore_end_of_text = true, .endpoint = "chat"},
      too_large{.text = "too large", .max_tokens = 4000, .endpoint = "batch"},
      late{.text = "late", .endpoint = "batch", .timeout_ms = 1}, cancelled{.text = "cancelled", .endpoint = "chat"},
      unlabelled{.text = "counts for nobody", .max_tokens = 1};
  std::vector<ResponseFuture> futures;
  for (const Request& request : {completes, too_large, late, cancelled, unlabelled}) futures.push_back(ask(request));
  futures[3].cancel();
  futures.push_back(ask(completes));
  completes.attempt = 1;
  EXPECT_EQ(ask(completes).get().status().code(), StatusCode::Rejected);
  now += std::chrono::milliseconds(2);
  for (int i = 0; i < 20; ++i) harness.loop.run_one();
  for (ResponseFuture& future : futures) EXPECT_TRUE(future.ready());

  const EngineStats s = harness.stats.snapshot();
  expect_identities(s);
  EXPECT_EQ(s.submitted, 7u);
  EXPECT_EQ(s.completed, 3u);
  EXPECT_EQ(s.failed, 1u);
  EXPECT_EQ(s.timed_out, 1u);
  EXPECT_EQ(s.cancelled, 1u);
  EXPECT_EQ(s.rejected, 1u);
  EXPECT_EQ(s.retries, 1u);
  EXPECT_DOUBLE_EQ(s.error_rate, 1. / 7);
  EXPECT_DOUBLE_EQ(s.window.rejection_rate, 1. / 7);
  EXPECT_EQ(s.ttft.count, 3u);
  EXPECT_EQ(s.per_token.count, 6u);
  ASSERT_EQ(s.endpoints.size(), 2u);
  EXPECT_EQ(s.endpoints[0].endpoint, "chat");
  EXPECT_EQ(s.endpoints[0].submitted, 4u);
  EXPECT_EQ(s.endpoints[0].completed, 2u);
  EXPECT_EQ(s.endpoints[0].rejected, 1u);
  EXPECT_EQ(s.endpoints[0].cancelled, 1u);
  EXPECT_EQ(s.endpoints[0].output_tokens, 8u);
  EXPECT_EQ(s.endpoints[1].endpoint, "batch");
  EXPECT_EQ(s.endpoints[1].failed, 1u);
  EXPECT_EQ(s.endpoints[1].timed_out, 1u);
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

TEST(StepLoop, AFullQueueSaysWhenToTryAgain) {
  Sequence::Clock::time_point now = Sequence::Clock::now();
  Harness harness({.max_sequences = 1, .max_queued_requests = 2, .by_hand = true, .now = [&] { return now; }});
  const Request request{.text = "four steps", .max_tokens = 4, .ignore_end_of_text = true};
  std::vector<ResponseFuture> futures;
  for (int i = 0; i < 40; ++i, now += std::chrono::milliseconds(25)) {
    if (i % 4 == 0) futures.push_back(harness.submit(request, now));
    harness.loop.run_one();
  }
  futures.push_back(harness.submit(request, now));
  for (int i = 0; i < 2; ++i) futures.push_back(harness.submit(request, now));
  const Status first = harness.submit(request, now).get().status(),
               second = harness.submit(request, now).get().status();
  ASSERT_EQ(second.code(), StatusCode::Rejected);
  EXPECT_GE(second.retry_after_ms(), 100u) << "a request takes 4 steps of 25 ms";
  EXPECT_LE(first.retry_after_ms(), second.retry_after_ms());
  EXPECT_LE(second.retry_after_ms(), 400u);
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

TEST(StepLoop, ManyThreadsMaySubmitCancelAndLook) {
  Harness harness({.blocks = 80});
  std::atomic<int> ended = 0;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (const auto& prompt : random_prompts(random, 60)) {
        auto future = harness.submit({.tokens = prompt, .max_tokens = 10});
        if (random() % 4 == 0) future.cancel();
        const auto response = future.get();
        if (response.ok()) {
          EXPECT_EQ(response->tokens, FakeModel::expected_output(prompt, 10));
        }
        expect_identities(harness.stats.snapshot());
        ++ended;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ended, 240);
  harness.check_accounts();
}

}  // namespace
}  // namespace tiercel
