// The step loop with drafts answers what it answers without: seeded random mixes of requests, on a model that repeats
// itself, through small caches, with preemption, cancellation and whatever may end an answer in the middle of a draft.
#include <algorithm>
#include <map>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "kv/kv_cache_state.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"

namespace tiercel {
namespace {

using Clock = Sequence::Clock;

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

// The fake model, whose next token mostly follows from the last one alone, so that its text repeats itself; each fourth
// follows from all KV before it. Several tokens are likely. Rows cost little time.
class RepetitiveModel final : public ModelRunner {
 public:
  RepetitiveModel(std::size_t max_logit_rows, bool deterministic, Clock::time_point& now)
      : fake_(max_logit_rows, deterministic), now_(now) {}
  const ModelShape& shape() const override { return fake_.shape(); }
  const Fingerprint& fingerprint() const override { return fake_.fingerprint(); }
  ModelMemory memory() const override { return {}; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return {}; }
  std::size_t max_logit_rows() const override { return fake_.max_logit_rows(); }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    auto logits = fake_.step(chunks, arena);
    if (!logits.ok()) return logits;
    std::size_t row = 0, tokens = 0;
    for (const SequenceChunk& chunk : chunks) {
      tokens += chunk.tokens.size();
      for (std::size_t i = 0; i < chunk.tokens.size(); ++i) {
        if (chunk.logits == Logits::All || (chunk.logits == Logits::Last && i + 1 == chunk.tokens.size())) {
          mix(logits->subspan(row++ * kFakeVocabulary, kFakeVocabulary), chunk.tokens[i]);
        }
      }
    }
    now_ += seconds(0.005 + 0.0001 * static_cast<double>(tokens));
    return logits;
  }

 private:
  static void mix(std::span<float> row, TokenId last) {
    const auto digested = static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
    const auto usual = static_cast<std::size_t>('a' + (last * 5 + 3) % 7);
    row[digested] = digested % 4 == 0 ? 10.0f : 7.0f;
    row[usual] += 8.0f;
    row['z'] += 6.0f;
  }

  FakeModel fake_;
  Clock::time_point& now_;
};

struct Told {
  TokenId token;
  std::string text;
  float logprob;
  friend bool operator==(const Told&, const Told&) = default;
};

struct Answered {
  std::vector<std::vector<Told>> told;  // by choice
  std::optional<Result<Response>> response;
};

struct Ask {
  Request request;
  std::size_t after_steps = 0;   // it comes then
  std::size_t cancel_after = 0;  // steps; 0: never
};

// What a seed draws, the same for each run of it.
struct Mix {
  explicit Mix(std::uint64_t seed) : random(seed) {
    sequences = 1 + random() % 5;
    blocks = 12 + random() % 60;
    deterministic = random() % 3 == 0;
    std::vector<std::vector<TokenId>> prompts;
    for (int i = 0; i < 24; ++i) asks.push_back(draw(prompts));
  }

  Ask draw(std::vector<std::vector<TokenId>>& prompts) {
    Ask ask;
    Request& request = ask.request;
    if (!prompts.empty() && random() % 3 != 0) {
      request.tokens = prompts[random() % prompts.size()];  // asked again, or with a few tokens more
      for (std::size_t more = random() % 2 == 0 ? 0 : random() % 9; more > 0; --more) {
        request.tokens.push_back(static_cast<TokenId>('a' + random() % 7));
      }
    } else {
      for (std::size_t count = 1 + random() % 40; count > 0; --count) {
        request.tokens.push_back(static_cast<TokenId>('a' + random() % 7));
      }
    }
    if (request.tokens.size() > 60) request.tokens.resize(60);
    prompts.push_back(request.tokens);
    request.max_tokens = static_cast<std::uint32_t>(random() % 30);
    request.priority = static_cast<int>(random() % 3);
    request.ignore_end_of_text = random() % 2 == 0;
    request.prompt_logprobs = random() % 10 == 0;
    SamplingOptions& sampling = request.sampling;
    sampling.seed = random() % 3;
    if (random() % 2 == 0) sampling.temperature = 0.3f + 0.3f * static_cast<float>(random() % 4);
    if (random() % 3 == 0) sampling.top_k = 1 + random() % 4;
    if (random() % 3 == 0) sampling.top_p = 0.7f;
    if (random() % 4 == 0) sampling.min_p = 0.1f;
    if (random() % 3 == 0) sampling.repetition_penalty = 1.3f;
    if (random() % 4 == 0) sampling.logit_bias = {{.token = 'a' + static_cast<TokenId>(random() % 7), .bias = 2.0f}};
    if (random() % 3 == 0) {
      request.stop = {std::string{static_cast<char>('a' + random() % 7), static_cast<char>('a' + random() % 7)}};
    }
    if (random() % 6 == 0) request.stop_tokens = {static_cast<TokenId>('a' + random() % 7)};
    const bool may_have_choices = sampling.temperature > 0 && request.max_tokens > 0 && !request.prompt_logprobs;
    if (may_have_choices && random() % 6 == 0) request.n = 2;
    if (random() % 4 == 0) request.cache_salt = "other";
    ask.after_steps = random() % 60;
    if (random() % 8 == 0) ask.cancel_after = 1 + random() % 20;
    return ask;
  }

  std::mt19937_64 random;
  std::size_t sequences, blocks;
  bool deterministic;
  std::vector<Ask> asks;
};

struct Outcomes {
  std::vector<Answered> answers;
  EngineStats stats;
  std::size_t preempted = 0;
};

Outcomes run(const Mix& mix, std::size_t max_draft_tokens, bool with_cancels) {
  static const Tokenizer tokenizer = make_byte_tokenizer();
  const std::optional<ChatTemplate> chat_template;
  Clock::time_point now = Clock::time_point(seconds(1000));
  const std::size_t rows = mix.sequences + 20;
  RepetitiveModel model(rows, mix.deterministic, now);
  KvCache cache = KvCache::open({.capacity_bytes = mix.blocks * FakeModel::layout().block_bytes()}, FakeModel::layout(),
                                model.fingerprint())
                      .value();
  StatsRecorder stats;
  Outcomes result;
  result.answers.resize(mix.asks.size());
  std::vector<ResponseFuture> futures(mix.asks.size());
  StepLoop loop(
      {.limits = {.max_sequences = mix.sequences,
                  .max_tokens = 40,
                  .max_logit_rows = rows,
                  .deterministic = mix.deterministic},
       .max_draft_tokens = max_draft_tokens,
       .by_hand = true,
       .now = [&] { return now; },
       .on_step = [&](const Scheduler&, const Scheduler::Step& step) { result.preempted += step.preempted.size(); }},
      model, cache, tokenizer, stats);
  for (std::size_t step = 0; step < 5000; ++step) {
    for (std::size_t i = 0; i < mix.asks.size(); ++i) {
      const Ask& ask = mix.asks[i];
      if (with_cancels && ask.cancel_after > 0 && step == ask.after_steps + ask.cancel_after) futures[i].cancel();
      if (step != ask.after_steps) continue;
      Request request = ask.request;
      Answered& answered = result.answers[i];
      answered.told.resize(request.n);
      request.on_token = [&answered](const TokenEvent& event) {
        answered.told[event.choice].push_back({event.token, std::string(event.text), event.logprob});
      };
      auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096});
      auto choices = make_sequences(std::move(request), *std::move(prompt), 4096, now);
      futures[i] = ResponseFuture(choices.front()->promise);
      loop.submit(std::move(choices));
    }
    loop.run_one();
    if (step > 150 && loop.idle()) break;
  }
  EXPECT_TRUE(loop.idle()) << "requests never end";
  loop.close();
  for (std::size_t i = 0; i < futures.size(); ++i) result.answers[i].response = futures[i].get();
  result.stats = stats.snapshot();
  expect_identities(result.stats);
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
  EXPECT_EQ(cache.stats().leased_blocks + cache.stats().promised_blocks, 0u);
  return result;
}

void expect_equal(const Answered& plain, const Answered& drafted) {
  if (!drafted.response->ok()) {
    ASSERT_EQ(drafted.response->status().code(),
              plain.response->ok() ? StatusCode::Cancelled : plain.response->status().code());
    for (std::size_t choice = 0; choice < plain.told.size(); ++choice) {
      ASSERT_LE(drafted.told[choice].size(), plain.told[choice].size());
      ASSERT_TRUE(std::equal(drafted.told[choice].begin(), drafted.told[choice].end(), plain.told[choice].begin()));
    }
    return;
  }
  const Response& a = **plain.response;
  const Response& b = **drafted.response;
  ASSERT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.text, b.text);
  ASSERT_EQ(a.logprobs, b.logprobs) << "bit for bit";
  ASSERT_EQ(a.prompt_logprobs, b.prompt_logprobs);
  ASSERT_EQ(a.finish_reason, b.finish_reason);
  ASSERT_EQ(a.choices.size(), b.choices.size());
  for (std::size_t i = 0; i < a.choices.size(); ++i) {
    ASSERT_EQ(a.choices[i].tokens, b.choices[i].tokens);
    ASSERT_EQ(a.choices[i].logprobs, b.choices[i].logprobs);
    ASSERT_EQ(a.choices[i].finish_reason, b.choices[i].finish_reason);
  }
  ASSERT_TRUE(plain.told == drafted.told) << "other events";
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr std::uint64_t kMixes = 300;
#else
constexpr std::uint64_t kMixes = 2000;
#endif

TEST(Speculation, ChangesNoAnswer) {
  std::size_t drafted = 0, accepted = 0, fewer_steps = 0, preempted = 0, cancelled = 0, sampled = 0, stopped = 0,
              choices = 0;
  for (std::uint64_t seed = 0; seed < kMixes; ++seed) {
    SCOPED_TRACE(seed);
    const Mix mix(seed);
    const Outcomes plain = run(mix, 0, false);
    ASSERT_EQ(plain.stats.drafted_tokens, 0u);
    const Outcomes with = run(mix, 1 + seed % 9, true);
    for (std::size_t i = 0; i < mix.asks.size(); ++i) {
      SCOPED_TRACE(i);
      expect_equal(plain.answers[i], with.answers[i]);
      if (testing::Test::HasFatalFailure()) return;
      if (!with.answers[i].response->ok()) {
        ++cancelled;
        continue;
      }
      const Response& response = **with.answers[i].response;
      if (response.accepted_tokens == 0) continue;
      sampled += mix.asks[i].request.sampling.temperature > 0;
      stopped += response.finish_reason == FinishReason::Stop;
      choices += response.choices.size() > 1;
    }
    drafted += with.stats.drafted_tokens;
    accepted += with.stats.accepted_tokens;
    fewer_steps += with.stats.steps < plain.stats.steps;
    preempted += with.preempted;
  }
  EXPECT_GT(drafted, 20 * kMixes);
  EXPECT_GT(accepted, drafted / 5);
  EXPECT_LT(accepted, drafted) << "no draft was wrong";
  EXPECT_GT(fewer_steps, kMixes / 2);
  for (const std::size_t times : {preempted, cancelled, sampled, stopped, choices}) EXPECT_GT(times, kMixes / 20);
}

TEST(Speculation, WhatIsAskedAgainIsDraftedFromTheCache) {
  Mix mix(1);
  mix.asks.clear();
  mix.blocks = 200;
  mix.deterministic = false;
  Ask ask;
  for (int i = 0; i < 37; ++i) ask.request.tokens.push_back(static_cast<TokenId>('a' + i * i % 7));
  ask.request.max_tokens = 100;
  ask.request.ignore_end_of_text = true;
  ask.request.sampling = {.temperature = 1.0f, .seed = 5};
  mix.asks.push_back(ask);
  ask.after_steps = 150;
  mix.asks.push_back(ask);
  const Outcomes result = run(mix, 7, false);
  const Response& first = **result.answers[0].response;
  const Response& second = **result.answers[1].response;
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_GT(second.drafted_tokens, 60u);
  EXPECT_GT(second.accepted_tokens * 10, second.drafted_tokens * 8u);
}

TEST(Speculation, IsOffWhereItIsNotAskedFor) {
  const Mix mix(3);
  const Outcomes result = run(mix, 0, false);
  EXPECT_EQ(result.stats.drafted_tokens, 0u);
}

}  // namespace
}  // namespace tiercel
