#include "engine/scheduler.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/fake_model.h"
#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

KvCache make_cache(std::size_t blocks) {
  return KvCache::open({.capacity_bytes = blocks * FakeModel::layout().block_bytes()}, FakeModel::layout(), {}).value();
}

std::unique_ptr<Sequence> make_sequence(std::size_t prompt, std::uint32_t max_tokens, int priority = 0,
                                        bool score = false) {
  Request request{.priority = priority, .max_tokens = max_tokens, .prompt_logprobs = score};
  return std::make_unique<Sequence>(std::move(request),
                                    std::vector<TokenId>(prompt, static_cast<TokenId>(prompt % 256)), 4096);
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
      Scheduler::Step& step = scheduler.next_step();
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
        const bool is_prefill = part.first_token < (part.sequence->prompt_tokens - 1) / 8 * 8;
        if (is_prefill || limits.deterministic) {
          ASSERT_EQ(part.arithmetic == Arithmetic::Prefill, is_prefill);
          ASSERT_FALSE(part.any_attention);
        } else if (part.arithmetic == Arithmetic::Prefill) {
          ASSERT_TRUE(part.any_attention) << "a stream beside prompts pays for a prompt's attention";
        }
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

TEST(Scheduler, ALongPromptKeepsToTheStreamsTime) {
  struct Case {
    double target_s;
    std::size_t least, most;  // prompt tokens of a step
  };
  // A step takes 10 ms and 1 ms for each token of a prompt.
  for (const Case& c :
       {Case{.target_s = 0, .least = 5, .most = 6}, Case{.target_s = 0.030, .least = 19, .most = 20},
        Case{.target_s = 10, .least = 63, .most = 63}, Case{.target_s = 0.001, .least = 4, .most = 4}}) {
    KvCache cache = make_cache(400);
    Scheduler scheduler({.max_sequences = 8, .max_tokens = 64, .max_logit_rows = 16, .target_step_s = c.target_s},
                        cache);
    scheduler.enqueue(make_sequence(4, 2000));
    const auto run = [&] {
      auto& step = scheduler.next_step();
      apply(step);
      scheduler.measured(step, 0.010 + 0.001 * static_cast<double>(step.prompt_tokens));
      return std::pair(step.streams, step.prompt_tokens);
    };
    EXPECT_EQ(run(), std::pair(std::size_t{0}, std::size_t{4}));
    scheduler.enqueue(make_sequence(1000, 5));
    EXPECT_EQ(run(), std::pair(std::size_t{1}, std::size_t{0})) << "what the stream takes alone was not known";
    std::size_t total = 0;
    for (int i = 0; total < 1000; ++i) {
      const auto [streams, prompt_tokens] = run();
      ASSERT_EQ(streams, 1u) << "the stream was stalled by a long prompt";
      total += prompt_tokens;
      if (i < 20 || total >= 1000 || prompt_tokens == 0) continue;  // learning; the rest; measuring again
      ASSERT_GE(prompt_tokens, c.least) << c.target_s;
      ASSERT_LE(prompt_tokens, c.most) << c.target_s;
      ASSERT_LT(i, 1000) << "the prompt starves";
    }
  }
}

std::vector<int> order_of_admission(Scheduler& scheduler, std::size_t count) {
  std::vector<int> order;
  for (int i = 0; i < 2000 && order.size() < count; ++i) {
    auto& step = scheduler.next_step();
    for (const Sequence* sequence : step.admitted) order.push_back(static_cast<int>(sequence->request.priority));
    apply(step);
    static_cast<void>(scheduler.take_if([](const Sequence& s) { return s.computed == s.tokens.size(); }));
  }
  return order;
}

TEST(Scheduler, WaitingCountsAsPriority) {
  KvCache cache = make_cache(100);
  Scheduler scheduler({.max_sequences = 1, .max_tokens = 64, .max_logit_rows = 16, .aging_s = 10}, cache);
  const auto at = [&](double seconds, int priority) {
    auto sequence = make_sequence(9, 0, priority);
    sequence->arrival += std::chrono::duration_cast<Sequence::Clock::duration>(std::chrono::duration<double>(seconds));
    scheduler.enqueue(std::move(sequence));
  };
  at(0, -7);
  at(65, 1);   // as good as -7 at -15
  at(65, 0);   // as -7 at -5
  at(75, 0);   // as -7 at 5
  at(1e4, 3);  // came too late to pass anybody
  EXPECT_EQ(order_of_admission(scheduler, 5), (std::vector<int>{1, 0, -7, 0, 3}));
}

TEST(Scheduler, HigherPriorityTakesThePlaceOfTheYoungestOfTheLowest) {
  KvCache cache = make_cache(30);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 1024, .max_logit_rows = 16, .aging_s = 1e6}, cache);
  const auto add = [&](int priority, std::size_t blocks, double started_s) {
    auto sequence = make_sequence(8 * blocks - 4, 4, priority);
    sequence->arrival += std::chrono::milliseconds(static_cast<int>(1e3 * started_s));
    scheduler.enqueue(std::move(sequence));
    std::vector<Sequence*> preempted;
    for (int i = 0; i < 3; ++i) {  // one may be without prompts, to measure the streams
      auto& step = scheduler.next_step();
      for (Sequence* admitted : step.admitted) admitted->started = admitted->arrival;
      preempted.insert(preempted.end(), step.preempted.begin(), step.preempted.end());
      apply(step);
    }
    return preempted;
  };
  EXPECT_TRUE(add(1, 10, 1).empty());
  EXPECT_TRUE(add(0, 9, 2).empty());
  EXPECT_TRUE(add(0, 8, 3).empty());
  EXPECT_EQ(scheduler.running(), 3u);
  EXPECT_TRUE(add(0, 7, 4).empty()) << "equals wait for each other";
  EXPECT_TRUE(add(2, 31, 5).empty()) << "nothing is gained where it can never fit";
  const auto preempted = add(2, 11, 6);
  ASSERT_EQ(preempted.size(), 1u) << "three blocks are free, and eight come back";
  EXPECT_EQ(preempted[0]->most_tokens, 8 * 8u);
  EXPECT_EQ(preempted[0]->computed, 0u);
  EXPECT_EQ(preempted[0]->response.preemptions, 1u);
  EXPECT_EQ(scheduler.running(), 3u);
  EXPECT_EQ(scheduler.waiting(), 2u);
}

TEST(Scheduler, NobodyGivesWayWhoseBlocksOthersHoldToo) {
  KvCache cache = make_cache(30);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 1024, .max_logit_rows = 16, .aging_s = 1e6}, cache);
  const auto add = [&](int priority, std::size_t prompt, double started_s) {
    auto sequence = make_sequence(prompt, 4, priority);
    sequence->arrival += std::chrono::milliseconds(static_cast<int>(1e3 * started_s));
    scheduler.enqueue(std::move(sequence));
    auto& step = scheduler.next_step();
    apply_and_share(step);
    return step.preempted;
  };
  EXPECT_TRUE(add(1, 76, 1).empty());  // ten blocks
  EXPECT_TRUE(add(0, 68, 2).empty());  // nine
  EXPECT_TRUE(add(0, 76, 3).empty());  // ten, of which nine are the first one's
  EXPECT_EQ(scheduler.running(), 3u);
  const auto preempted = add(2, 116, 4);  // fifteen, and ten are left
  ASSERT_EQ(preempted.size(), 1u) << "the last to arrive would give one";
  EXPECT_EQ(preempted[0]->prompt_tokens, 68u);
  EXPECT_EQ(scheduler.running(), 3u);
}

TEST(Scheduler, WhoWasGivenRoomTakesItAndWaitsForNoTier) {
  double now_s = 1;
  auto store = std::make_shared<FaultyStore>(1 << 20);
  KvCache cache =
      KvCacheState::open({.capacity_bytes = 20 * FakeModel::layout().block_bytes(), .tiers = {store}},
                         FakeModel::layout(), {}, {}, {.tier_now_s = [&] { return now_s; }, .background_thread = false})
          .value();
  TierManager& tiers = *KvCacheState::of(cache).tiers();
  for (std::size_t position = 1; position < 4096; position *= 2) cache.report_prefill(8, position, 0.2);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 1024, .max_logit_rows = 16, .aging_s = 1e6}, cache);
  const std::vector<TokenId> prefix(64, 1);
  const auto add = [&](int priority, std::vector<TokenId> prompt, std::size_t own) {
    prompt.resize(prompt.size() + own, static_cast<TokenId>(2 + priority));
    scheduler.enqueue(
        std::make_unique<Sequence>(Request{.priority = priority, .max_tokens = 4}, std::move(prompt), 4096));
    return scheduler.waiting_sequences().front().get();
  };
  add(2, prefix, 4);
  apply_and_share(scheduler.next_step());
  static_cast<void>(scheduler.take_if([](const Sequence&) { return true; }));
  while (tiers.run_one()) {
  }
  const Sequence* low = add(0, {}, 76);  // ten blocks; eight are cached
  apply_and_share(scheduler.next_step());
  const Sequence* high = add(1, prefix, 28);  // twelve, with these eight
  EXPECT_EQ(scheduler.next_step().preempted, std::vector{const_cast<Sequence*>(low)});
  EXPECT_EQ(cache.room().demoting_blocks, 9u);
  // Meanwhile what it counted on is evicted, and a tier could give it back.
  {
    const std::vector<TokenId> others(88, 9);
    Lease lease = cache.admit(others, {.max_tokens = 88}).value();
    ASSERT_TRUE(lease.grow(88).ok());
  }
  EXPECT_EQ(high->expected.cached_tokens(), 0u);
  while (tiers.run_one()) {
  }
  EXPECT_EQ(scheduler.next_step().admitted, std::vector{const_cast<Sequence*>(high)});
  EXPECT_EQ(scheduler.waiting(), 1u);
}

TEST(Scheduler, WhereRoomIsScarceACachedPrefixGoesFirstButNotForever) {
  KvCache cache = make_cache(12);
  const auto prompt_of = [](int kind) { return std::vector<TokenId>(70, static_cast<TokenId>(kind)); };
  Scheduler scheduler({.max_sequences = 1, .max_tokens = 256, .max_logit_rows = 16}, cache);
  const auto enqueue = [&](int kind) {
    scheduler.enqueue(std::make_unique<Sequence>(Request{.max_tokens = 0}, prompt_of(kind), 4096));
  };
  enqueue(1);  // and stays in the cache, which has no room for another
  apply_and_share(scheduler.next_step());
  static_cast<void>(scheduler.take_if([](const Sequence&) { return true; }));
  enqueue(2);
  for (int i = 0; i < 40; ++i) enqueue(1);
  std::vector<int> order;
  while (!scheduler.idle()) {
    auto& step = scheduler.next_step();
    for (const Sequence* sequence : step.admitted) order.push_back(sequence->tokens[0]);
    apply_and_share(step);
    static_cast<void>(scheduler.take_if([](const Sequence& s) { return s.computed == s.tokens.size(); }));
  }
  const auto other = std::ranges::find(order, 2) - order.begin();
  EXPECT_EQ(other, 16) << "those whose prefix is cached go first, sixteen times";
}

// A cache in which each tenant may have `quota_blocks`, and a scheduler that gives every prompt a step of its own.
struct TenantsHarness {
  explicit TenantsHarness(std::size_t quota_blocks)
      : cache(KvCache::open({.capacity_bytes = 100 * FakeModel::layout().block_bytes(),
                             .tenant_quota_bytes = quota_blocks * FakeModel::layout().block_bytes()},
                            FakeModel::layout(), {})
                  .value()),
        scheduler({.max_sequences = 16, .max_tokens = 1024, .max_logit_rows = 32}, cache) {}

  Sequence* enqueue(const std::string& tenant, std::size_t blocks, int priority = 0) {
    Request request{.priority = priority, .max_tokens = 4, .cache_salt = tenant};
    std::vector<TokenId> prompt(8 * blocks - 4, static_cast<TokenId>(++prompts % 256));
    scheduler.enqueue(std::make_unique<Sequence>(std::move(request), std::move(prompt), 4096));
    return scheduler.waiting_sequences().back().get();
  }
  // One step; those it admitted.
  std::vector<Sequence*> step() {
    auto& next = scheduler.next_step();
    apply(next);
    return next.admitted;
  }
  void end(const Sequence* sequence) {
    static_cast<void>(scheduler.take_if([&](const Sequence& s) { return &s == sequence; }));
  }

  KvCache cache;
  Scheduler scheduler;
  int prompts = 0;
};

TEST(Scheduler, ATenantsSmallRequestsDoNotPassItsLargeOne) {
  TenantsHarness tenants(12);
  Sequence* running = tenants.enqueue("a", 4);
  EXPECT_EQ(tenants.step(), std::vector{running});
  Sequence* large = tenants.enqueue("a", 10);
  Sequence* other = tenants.enqueue("b", 10);
  // Small ones come and go without end, and one of them always runs.
  bool other_ran = false;
  for (int i = 0; i < 20; ++i) {
    tenants.enqueue("a", 4);
    std::vector<Sequence*> admitted;
    for (int steps = 0; steps < 4; ++steps) {  // some are without prompts, to measure the streams
      for (Sequence* sequence : tenants.step()) admitted.push_back(sequence);
    }
    other_ran = other_ran || std::ranges::find(admitted, other) != admitted.end();
    if (std::ranges::find(admitted, large) != admitted.end()) {
      EXPECT_TRUE(other_ran) << "a tenant at its quota does not hold up others";
      return;
    }
    tenants.end(running);
    if (!admitted.empty() && admitted.back() != other) running = admitted.back();
  }
  FAIL() << "the large request was passed by " << tenants.prompts - 3 << " small ones";
}

TEST(Scheduler, ManyRequestsOfATenantAtItsQuotaDoNotHoldUpOthers) {
  TenantsHarness tenants(12);
  for (int i = 0; i < 300; ++i) tenants.enqueue("a", 10);
  Sequence* other = tenants.enqueue("b", 4);
  tenants.step();
  EXPECT_GT(other->lease.committed_tokens(), 0u);
}

TEST(Scheduler, WhoIsAtItsQuotaDoesNotKeepOthersFromPreempting) {
  TenantsHarness tenants(90);
  Sequence* low = tenants.enqueue("low", 50);
  EXPECT_EQ(tenants.step(), std::vector{low});
  Sequence* high = tenants.enqueue("high", 40, 5);
  for (int i = 0; i < 5; ++i) tenants.step();  // some are without prompts, to measure the streams
  ASSERT_TRUE(high->lease.committed_tokens() > 0);
  tenants.enqueue("high", 60, 4);  // at its quota; preempting for it would be of no use
  Sequence* next = tenants.enqueue("next", 30, 3);
  for (int i = 0; i < 4; ++i) tenants.step();
  EXPECT_EQ(low->response.preemptions, 1u);
  EXPECT_GT(next->lease.committed_tokens(), 0u);
}

TEST(Scheduler, WhoComesBehindItsTenantsHeldOneTakesNobodysPlace) {
  TenantsHarness tenants(90);
  tenants.enqueue("a", 50, 1);
  const Sequence* low = tenants.enqueue("b", 45);
  for (int i = 0; i < 3; ++i) tenants.step();
  ASSERT_EQ(tenants.scheduler.running(), 2u);
  const Sequence* large = tenants.enqueue("a", 45, 1);
  for (int i = 0; i < 3; ++i) tenants.step();
  ASSERT_TRUE(large->held_by_quota);
  tenants.enqueue("a", 10, 1);
  tenants.step();
  EXPECT_EQ(low->response.preemptions, 0u) << "the small one would fit, in the other tenant's place";
  EXPECT_EQ(tenants.scheduler.waiting(), 2u);
}

TEST(Scheduler, OnlyWhoIsAdmittedHasOvertaken) {
  KvCache cache = make_cache(24);
  Scheduler scheduler({.max_sequences = 4, .max_tokens = 256, .max_logit_rows = 16}, cache);
  const auto enqueue = [&](int kind, std::uint32_t max_tokens) {
    scheduler.enqueue(std::make_unique<Sequence>(Request{.max_tokens = max_tokens},
                                                 std::vector<TokenId>(70, static_cast<TokenId>(kind)), 4096));
  };
  enqueue(1, 0);  // and stays in the cache
  apply_and_share(scheduler.next_step());
  static_cast<void>(scheduler.take_if([](const Sequence&) { return true; }));
  enqueue(3, 80);  // fills most of the cache, and runs on
  apply(scheduler.next_step());
  enqueue(2, 0);
  const Sequence* first = scheduler.waiting_sequences().front().get();
  enqueue(1, 0);
  for (int i = 0; i < 40; ++i) apply(scheduler.next_step());
  EXPECT_EQ(scheduler.waiting(), 2u) << "there is no room yet";
  EXPECT_EQ(first->overtaken, 0u);
}

TEST(Scheduler, WhatPinsLeaveNoRoomForHoldsUpNobody) {
  KvCache cache = make_cache(20);
  Scheduler scheduler({.max_sequences = 4, .max_tokens = 256, .max_logit_rows = 16}, cache);
  const std::vector<TokenId> pinned(80, 9);
  scheduler.enqueue(std::make_unique<Sequence>(Request{.max_tokens = 0}, pinned, 4096));
  apply_and_share(scheduler.next_step());
  static_cast<void>(scheduler.take_if([](const Sequence&) { return true; }));
  ASSERT_EQ(cache.pin(std::span(pinned).first(72)).value(), 72u);
  scheduler.enqueue(make_sequence(100, 40));  // 18 blocks of 20, of which 9 are pinned
  scheduler.enqueue(make_sequence(20, 4));
  for (int i = 0; i < 3; ++i) apply(scheduler.next_step());
  EXPECT_EQ(scheduler.running(), 1u);
  EXPECT_EQ(scheduler.waiting(), 1u);
}

TEST(Scheduler, OneSlowStepSaysNothingOfTheNext) {
  KvCache cache = make_cache(600);
  Scheduler scheduler({.max_sequences = 8, .max_tokens = 512, .max_logit_rows = 16}, cache);
  scheduler.enqueue(make_sequence(4, 2000));
  int steps = 0;
  const auto run = [&] {
    auto& step = scheduler.next_step();
    apply(step);
    const double stall_s = step.streams == 1 && step.prompt_tokens == 0 && steps++ == 0 ? 1 : 0;
    scheduler.measured(step, 0.010 + 0.001 * static_cast<double>(step.prompt_tokens) + stall_s);
    return step.prompt_tokens;
  };
  run();
  scheduler.enqueue(make_sequence(2000, 5));
  for (int i = 0; i < 20; ++i) EXPECT_LE(run(), 32u) << "of a prompt, beside a stream that takes 10 ms: step " << i;
}

}  // namespace
}  // namespace tiercel
