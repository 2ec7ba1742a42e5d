#include "engine/scheduler.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/fake_model.h"

namespace tiercel {
namespace {

KvCache make_cache(std::size_t blocks) {
  return KvCache::open({.capacity_bytes = blocks * FakeModel::layout().block_bytes()}, FakeModel::layout(), {}).value();
}

std::unique_ptr<Sequence> make_sequence(std::size_t prompt, std::uint32_t max_tokens, int priority = 0,
                                        bool score = false) {
  Request request{.priority = priority, .max_tokens = max_tokens, .prompt_logprobs = score};
  return std::make_unique<Sequence>(
      std::move(request), std::vector<TokenId>(prompt, static_cast<TokenId>(prompt % 256)), kFakeVocabulary, 4096);
}

// What the step loop does with a step, less the model: every part is computed and one token drawn where logits were
// asked.
void apply(const Scheduler::Step& step) {
  for (const BatchPart& part : step.parts) {
    Sequence& s = *part.sequence;
    ASSERT_EQ(part.first_token, s.computed);
    ASSERT_TRUE(s.lease.grow(part.first_token + part.tokens).ok()) << "a promised block was not there";
    s.lease.commit(std::span<const TokenId>(s.tokens).subspan(part.first_token, part.tokens), false);
    s.computed += part.tokens;
    if (part.logits != Logits::None && s.computed == s.tokens.size() && s.tokens.size() < s.most_tokens)
      s.tokens.push_back(7);
  }
}

TEST(Scheduler, RandomHistoriesKeepEveryLimitAndEndEveryRequest) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const std::size_t blocks = 12 + random() % 60;
    KvCache cache = make_cache(blocks);
    const SchedulerLimits limits{.max_sequences = 1 + random() % 6,
                                 .max_tokens = 8 + random() % 40,
                                 .max_logit_rows = 12,
                                 .deterministic = random() % 2 == 0};
    Scheduler scheduler(limits, cache);
    std::size_t submitted = 0, ended = 0;
    for (int i = 0; i < 20000 && (i < 40 || !scheduler.idle()); ++i) {
      if (i < 40) {
        scheduler.enqueue(make_sequence(1 + random() % 120, static_cast<std::uint32_t>(random() % 40),
                                        static_cast<int>(random() % 3), random() % 5 == 0));
        ++submitted;
      }
      const Scheduler::Step step = scheduler.next_step();
      ended += step.refused.size();
      for (const auto& [sequence, status] : step.refused) {
        EXPECT_EQ(status.code(), StatusCode::ResourceExhausted);
        EXPECT_GT(sequence->most_tokens, blocks * 8);
      }
      std::size_t tokens = 0, rows = 0;
      std::map<Sequence*, std::size_t> next;
      bool decode_seen = false;
      for (const BatchPart& part : step.parts) {
        tokens += part.tokens;
        rows += part.logits == Logits::All ? part.tokens : part.logits == Logits::Last;
        ASSERT_GT(part.tokens, 0u);
        ASSERT_EQ(part.first_token, next.contains(part.sequence) ? next[part.sequence] : part.sequence->computed);
        next[part.sequence] = part.first_token + part.tokens;
        ASSERT_FALSE(part.arithmetic == Arithmetic::Any && limits.deterministic);
        ASSERT_EQ(part.arithmetic == Arithmetic::Prefill,
                  part.first_token < (part.sequence->prompt_tokens - 1) / 8 * 8);
        if (part.arithmetic != Arithmetic::Prefill) decode_seen = true;
        ASSERT_FALSE(decode_seen && part.arithmetic == Arithmetic::Prefill) << "prefill rows must come first";
      }
      ASSERT_LE(tokens, limits.max_tokens);
      ASSERT_LE(rows, limits.max_logit_rows);
      ASSERT_LE(scheduler.running(), limits.max_sequences);
      ASSERT_TRUE(!step.parts.empty() || scheduler.idle()) << "stuck, seed " << seed;
      apply(step);
      const auto done = scheduler.take_if([](const Sequence& s) {
        return s.computed > 0 && s.tokens.size() == s.most_tokens &&
               s.computed + (s.request.max_tokens > 0) >= s.tokens.size();
      });
      ended += done.size();
    }
    ASSERT_TRUE(scheduler.idle()) << "seed " << seed;
    ASSERT_EQ(ended, submitted);
    ASSERT_EQ(cache.stats().leased_blocks, 0u);
  }
}

// As apply(), with blocks shared as the scheduler says. Returns the prompt tokens computed.
std::size_t apply_and_share(const Scheduler::Step& step) {
  std::size_t computed = 0;
  for (const BatchPart& part : step.parts) {
    Sequence& s = *part.sequence;
    EXPECT_TRUE(s.lease.grow(part.first_token + part.tokens).ok());
    s.lease.commit(std::span<const TokenId>(s.tokens).subspan(part.first_token, part.tokens), part.share);
    s.computed += part.tokens;
    computed += part.tokens;
  }
  return computed;
}

TEST(Scheduler, APrefixInFlightIsComputedOnce) {
  KvCache cache = make_cache(200);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 32, .max_logit_rows = 16}, cache);
  for (int i = 0; i < 4; ++i) scheduler.enqueue(make_sequence(100, 0));
  scheduler.enqueue(make_sequence(50, 0));  // another prompt, which goes first meanwhile
  std::size_t computed = 0;
  for (int step = 0; step < 40 && !scheduler.idle(); ++step) {
    computed += apply_and_share(scheduler.next_step());
    if (step == 0) {
      EXPECT_EQ(scheduler.running(), 1u);
    }
    static_cast<void>(scheduler.take_if([](const Sequence& s) { return s.computed == s.tokens.size(); }));
  }
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(computed, 50u + 100u + 3 * 4u) << "of each of the others its tail only";
}

TEST(Scheduler, WhoWaitsForACancelledPrefixComputesIt) {
  KvCache cache = make_cache(200);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 32, .max_logit_rows = 16}, cache);
  scheduler.enqueue(make_sequence(100, 0));
  scheduler.enqueue(make_sequence(100, 0));
  std::size_t computed = apply_and_share(scheduler.next_step());
  EXPECT_EQ(scheduler.running(), 1u);
  bool first = true;
  EXPECT_EQ(scheduler.take_if([&](const Sequence& s) { return s.computed > 0 && std::exchange(first, false); }).size(),
            1u);
  for (int step = 0; step < 10; ++step) computed += apply_and_share(scheduler.next_step());
  EXPECT_EQ(computed, 100u);
}

TEST(Scheduler, RunningSequencesGoBeforePrompts) {
  KvCache cache = make_cache(200);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 16, .max_logit_rows = 16}, cache);
  scheduler.enqueue(make_sequence(4, 50));
  apply(scheduler.next_step());
  scheduler.enqueue(make_sequence(200, 5));
  for (int i = 0; i < 10; ++i) {
    const auto step = scheduler.next_step();
    ASSERT_EQ(step.parts.size(), 2u);
    ASSERT_EQ(step.parts.front().tokens, 15u);
    ASSERT_EQ(step.parts.back().tokens, 1u) << "the stream was stalled by a long prompt";
    ASSERT_EQ(step.parts.back().logits, Logits::Last);
    apply(step);
  }
}

}  // namespace
}  // namespace tiercel
