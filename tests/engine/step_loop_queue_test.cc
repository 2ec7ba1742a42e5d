// Who waits, who goes first, who gives way, and how requests end before they are answered.
#include <algorithm>
#include <chrono>
#include <future>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "tests/engine/step_loop_fixture.h"

namespace tiercel {
namespace {

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

// An engine with room for one request of four steps, 25 ms each, and for two that wait.
struct SlowHarness {
  void fill(std::size_t waiting) {
    while (harness.loop.queued() < waiting) futures.push_back(harness.submit(request, now));
  }
  Status refused() {
    fill(2);
    const Status status = harness.submit(request, now).get().status();
    EXPECT_EQ(status.code(), StatusCode::Rejected);
    return status;
  }
  // `steps` of them, before each of which `waiting` requests are made to wait.
  void run(int steps, std::size_t waiting) {
    for (int i = 0; i < steps; ++i, now += std::chrono::milliseconds(25)) {
      fill(waiting);
      harness.loop.run_one();
    }
  }

  Sequence::Clock::time_point now = Sequence::Clock::now();
  Harness harness{{.max_sequences = 1, .max_queued_requests = 2, .by_hand = true, .now = [this] { return now; }}};
  const Request request{.text = "four steps", .max_tokens = 4, .ignore_end_of_text = true};
  std::vector<ResponseFuture> futures;
};

TEST(StepLoop, AFullQueueSaysWhenToTryAgain) {
  SlowHarness slow;
  slow.run(42, 2);
  const Status first = slow.refused(), second = slow.refused();
  EXPECT_GE(first.retry_after_ms(), 95u) << "a request takes 4 steps of 25 ms";
  EXPECT_LE(first.retry_after_ms(), 105u);
  EXPECT_GE(second.retry_after_ms(), 190u) << "another one waits before it";
  EXPECT_LE(second.retry_after_ms(), 210u);
}

// Requests that come once an hour are no sign that one takes an hour.
TEST(StepLoop, WhatPassesWhileNobodyWaitsIsNotCounted) {
  SlowHarness slow;
  for (int i = 0; i < 20; ++i) {
    slow.fill(1);
    slow.run(4, 0);
    slow.now += std::chrono::hours(1);
  }
  EXPECT_EQ(slow.refused().retry_after_ms(), 0u) << "nothing is known yet";
  slow.run(40, 2);
  slow.run(20, 0);
  slow.now += std::chrono::hours(1);
  EXPECT_LE(slow.refused().retry_after_ms(), 105u);
  // Nor what passes after one that waited has gone away.
  slow.futures.back().cancel();
  slow.run(20, 0);
  slow.now += std::chrono::hours(1);
  slow.run(10, 2);
  EXPECT_LE(slow.refused().retry_after_ms(), 105u);
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
