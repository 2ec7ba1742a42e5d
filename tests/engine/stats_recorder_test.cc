#include "engine/stats_recorder.h"

#include <algorithm>
#include <cmath>
#include <latch>
#include <map>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/engine/stats_identities.h"

namespace tiercel {
namespace {

using Clock = StatsOptions::Clock;

TEST(StatsRecorder, CountsEachRequestOnceAndEachTokenOnce) {
  StatsRecorder recorder({.tier_names = {"disk"}});
  recorder.on_rejected(kNoEndpoint, 0);
  for (std::uint32_t i = 0; i < 5; ++i) recorder.on_queued(kNoEndpoint, i % 2);
  recorder.on_started(kNoEndpoint, std::vector<std::pair<std::string, std::uint32_t>>{{"hot", 20}, {"disk", 10}}, 1.0);
  recorder.on_prompt_tokens_computed(kNoEndpoint, 10, 0);
  recorder.on_started(kNoEndpoint, {}, 2.0);
  recorder.on_prompt_tokens_computed(kNoEndpoint, 52, 8);
  recorder.on_first_output_token(kNoEndpoint, 5.0);
  recorder.on_output_token(kNoEndpoint, 2.0);
  recorder.on_preempted(kNoEndpoint);
  recorder.on_demoted(kNoEndpoint);
  recorder.on_ended(kNoEndpoint, Outcome::Completed, true, 9.0);
  recorder.on_ended(kNoEndpoint, Outcome::Failed, true, 3.0);
  recorder.on_ended(kNoEndpoint, Outcome::Cancelled, false, 1.0);
  recorder.on_ended(kNoEndpoint, Outcome::TimedOut, false, 1.0);
  recorder.on_step(0.5, 0.25);

  const EngineStats stats = recorder.snapshot();
  expect_identities(stats);
  EXPECT_EQ(stats.submitted, 6u);
  EXPECT_EQ(stats.rejected, 1u);
  EXPECT_EQ(stats.completed, 1u);
  EXPECT_EQ(stats.failed, 1u);
  EXPECT_EQ(stats.timed_out, 1u);
  EXPECT_EQ(stats.cancelled, 1u);
  EXPECT_EQ(stats.retries, 2u);
  EXPECT_EQ(stats.queued, 1u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.prompt_tokens, 100u);
  EXPECT_EQ(stats.computed_prompt_tokens, 62u);
  EXPECT_EQ(stats.recomputed_prompt_tokens, 8u);
  EXPECT_DOUBLE_EQ(stats.hit_rate, 0.3);
  ASSERT_EQ(stats.hits.size(), 2u);
  EXPECT_EQ(stats.hits[0].tier, "hot");
  EXPECT_DOUBLE_EQ(stats.hits[0].rate, 0.2);
  EXPECT_EQ(stats.hits[1].tier, "disk");
  EXPECT_DOUBLE_EQ(stats.hits[1].rate, 0.1);
  EXPECT_DOUBLE_EQ(stats.timeout_rate, 0.2);
  EXPECT_DOUBLE_EQ(stats.retry_rate, 2. / 6);
  EXPECT_EQ(stats.output_tokens, 2u);
  EXPECT_EQ(stats.preemptions, 1u);
  EXPECT_EQ(stats.demotions, 1u);
  EXPECT_EQ(stats.ttft.count, 1u);
  EXPECT_EQ(stats.per_token.count, 1u);
  EXPECT_EQ(stats.total.count, 1u) << "only completed requests have a total";
  EXPECT_NEAR(stats.total.p99_ms, 9.0, 0.09);
  EXPECT_EQ(stats.steps, 1u);
  EXPECT_DOUBLE_EQ(stats.busy_s, 0.5);
  EXPECT_DOUBLE_EQ(stats.engine_cpu_s, 0.25);
  EXPECT_TRUE(stats.endpoints.empty());
}

TEST(StatsRecorder, EndpointsAreBoundedAndAddUp) {
  StatsRecorder recorder;
  EXPECT_EQ(recorder.endpoint(""), kNoEndpoint);
  std::map<EndpointId, int> requests;
  for (int i = 0; i < 100; ++i) {
    const EndpointId endpoint = recorder.endpoint(fmt::format("endpoint {}", i % 50));
    EXPECT_NE(endpoint, kNoEndpoint);
    EXPECT_EQ(endpoint, recorder.endpoint(fmt::format("endpoint {}", i % 50)));
    recorder.on_rejected(endpoint, 0);
    ++requests[endpoint];
  }
  EXPECT_EQ(recorder.endpoint(std::string(65, 'x')), recorder.endpoint("other"));
  const EngineStats stats = recorder.snapshot();
  ASSERT_EQ(stats.endpoints.size(), EndpointLabels::kMostLabels + 1);
  EXPECT_EQ(stats.endpoints[3].endpoint, "endpoint 3");
  EXPECT_EQ(stats.endpoints[3].rejected, 2u);
  EXPECT_EQ(stats.endpoints.back().endpoint, "other");
  EXPECT_EQ(stats.endpoints.back().rejected, 2 * (50 - EndpointLabels::kMostLabels));
  EXPECT_EQ(stats.rejected, 100u);
  EXPECT_EQ(requests.size(), EndpointLabels::kMostLabels + 1);
}

// ---- The window, against a list of all that happened

struct Event {
  std::uint64_t slot = 0;
  EndpointId endpoint = kNoEndpoint;
  double ttft_ms = 0;  // of a request that starts, gives one token and ends at once; below 0: one rejected
};

double exact_percentile(std::vector<double> samples, double fraction) {
  std::ranges::sort(samples);
  const double rank = std::ceil(fraction * static_cast<double>(samples.size()));
  return samples[static_cast<std::size_t>(std::max(rank, 1.)) - 1];
}

void expect_figures(const RequestFigures& figures, const std::vector<Event>& events, EndpointId endpoint,
                    std::uint64_t first_slot) {
  std::vector<double> ttfts_ms;
  double sum_ms = 0;
  std::uint64_t rejected = 0;
  for (const Event& event : events) {
    if (event.slot < first_slot || (endpoint != kNoEndpoint && event.endpoint != endpoint)) continue;
    if (event.ttft_ms < 0) {
      ++rejected;
      continue;
    }
    ttfts_ms.push_back(event.ttft_ms);
    sum_ms += event.ttft_ms;
  }
  ASSERT_EQ(figures.rejected, rejected);
  ASSERT_EQ(figures.completed, ttfts_ms.size());
  ASSERT_EQ(figures.submitted, ttfts_ms.size() + rejected);
  ASSERT_EQ(figures.output_tokens, ttfts_ms.size());
  ASSERT_EQ(figures.prompt_tokens, 5 * ttfts_ms.size());
  ASSERT_EQ(figures.ttft.count, ttfts_ms.size());
  if (figures.seconds > 0) {
    ASSERT_NEAR(figures.requests_per_s, static_cast<double>(ttfts_ms.size()) / figures.seconds, 1e-9);
  }
  if (ttfts_ms.empty()) return;
  ASSERT_NEAR(figures.ttft.mean_ms, sum_ms / static_cast<double>(ttfts_ms.size()), 1e-5);
  ASSERT_NEAR(figures.ttft.max_ms, *std::ranges::max_element(ttfts_ms), 1e-5);
  for (const auto& [got, fraction] : {std::pair(figures.ttft.p50_ms, 0.5), std::pair(figures.ttft.p95_ms, 0.95),
                                      std::pair(figures.ttft.p99_ms, 0.99), std::pair(figures.ttft.p999_ms, 0.999)}) {
    const double exact = exact_percentile(ttfts_ms, fraction);
    ASSERT_NEAR(got, exact, 0.01 * exact + 1e-5);
  }
}

TEST(StatsRecorder, TheWindowForgetsWhatIsOlder) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Clock::time_point now = Clock::now();
    const Clock::time_point opened = now;
    StatsRecorder recorder({.window_s = 60, .now = [&] { return now; }});
    const EndpointId endpoints[] = {kNoEndpoint, recorder.endpoint("a"), recorder.endpoint("b")};
    std::lognormal_distribution<double> ttft_ms(2, 2);
    std::vector<Event> events;
    for (int i = 0; i < 400; ++i) {
      // Mostly bursts; sometimes a pause of seconds, rarely one longer than the window.
      const unsigned pause = random() % 40;
      now += std::chrono::milliseconds(pause == 0 ? 50'000 + random() % 200'000 : pause < 5 ? random() % 12'000 : 3);
      Event event{.slot = static_cast<std::uint64_t>((now - opened) / std::chrono::seconds(10)),
                  .endpoint = endpoints[random() % 3],
                  .ttft_ms = random() % 5 == 0 ? -1 : ttft_ms(random)};
      if (event.ttft_ms < 0) {
        recorder.on_rejected(event.endpoint, 0);
      } else {
        recorder.begin();
        recorder.on_queued(event.endpoint, 0);
        recorder.on_started(event.endpoint, {}, 1);
        recorder.on_prompt_tokens_computed(event.endpoint, 5, 0);
        recorder.on_first_output_token(event.endpoint, event.ttft_ms);
        recorder.on_ended(event.endpoint, Outcome::Completed, true, event.ttft_ms);
      }
      events.push_back(event);
      if (random() % 10 != 0) continue;
      // Also some time later, when nothing has happened since.
      if (random() % 2 == 0) now += std::chrono::milliseconds(random() % 90'000);
      const auto slot = static_cast<std::uint64_t>((now - opened) / std::chrono::seconds(10));
      const std::uint64_t first = slot < 6 ? 0 : slot - 5;
      const EngineStats stats = recorder.snapshot();
      expect_identities(stats);
      const double since_s = std::chrono::duration<double>(now - opened).count();
      ASSERT_NEAR(stats.seconds, since_s, 1e-6);
      ASSERT_NEAR(stats.window.seconds, since_s - 10. * static_cast<double>(first), 1e-6);
      for (std::size_t e = 0; e < 3; ++e) {
        const RequestStats& of_endpoint = e == 0 ? static_cast<const RequestStats&>(stats) : stats.endpoints[e - 1];
        expect_figures(of_endpoint, events, endpoints[e], 0);
        expect_figures(of_endpoint.window, events, endpoints[e], first);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// ---- Writers and readers at once

TEST(StatsRecorder, IdentitiesHoldInEverySnapshotWhileOthersWrite) {
  constexpr unsigned kSubmitters = 2, kRequests = 4000;
  // Slots of a millisecond: their beginnings meet the readers, too.
  StatsRecorder recorder({.window_s = 0.006, .tier_names = {"memory"}});
  std::atomic<std::uint64_t> arrived = 0, submitters = kSubmitters;
  std::atomic<bool> done = false;
  std::latch first_snapshot(1);  // of several, however late this thread is
  std::vector<std::thread> threads;
  for (unsigned s = 0; s < kSubmitters; ++s) {
    threads.emplace_back([&, s] {
      for (unsigned i = 0; i < kRequests; ++i) {
        if (i == kRequests / 2) first_snapshot.wait();
        const EndpointId endpoint = recorder.endpoint(fmt::format("{}", (i + s) % 40));
        if (i % 7 == 0) {
          recorder.on_rejected(endpoint, i % 2);
        } else {
          recorder.on_queued(kNoEndpoint, i % 3);
          arrived.fetch_add(1, std::memory_order_release);
        }
      }
      --submitters;
    });
  }
  threads.emplace_back([&] {  // the step loop
    const std::vector<std::pair<std::string, std::uint32_t>> reused = {{"hot", 3}, {"memory", 2}};
    std::uint64_t taken = 0, running = 0;
    std::mt19937 random(1);
    for (bool last = false;; last = submitters == 0) {
      recorder.begin();
      for (; taken < arrived.load(std::memory_order_acquire); ++taken) {
        if (random() % 8 == 0) {
          recorder.on_ended(kNoEndpoint, Outcome::TimedOut, false, 1);
        } else {
          recorder.on_started(kNoEndpoint, reused, 0.5);
          ++running;
        }
        if (running > 0 && random() % 2 == 0) {
          recorder.on_prompt_tokens_computed(kNoEndpoint, 4, 1);
          recorder.on_first_output_token(kNoEndpoint, 0.1 * (random() % 100));
          recorder.on_output_token(kNoEndpoint, 0.1);
          recorder.on_ended(kNoEndpoint, static_cast<Outcome>(random() % 4), true, 2);
          --running;
        }
      }
      recorder.on_step(1e-4, 1e-4);
      if (last && taken == arrived) break;
    }
    for (; running > 0; --running) recorder.on_ended(kNoEndpoint, Outcome::Cancelled, true, 1);
    done = true;
  });
  EngineStats before;
  std::size_t snapshots = 0;
  do {
    EngineStats stats = recorder.snapshot();
    if (++snapshots == 1) first_snapshot.count_down();
    expect_identities(stats);
    EXPECT_GE(stats.completed, before.completed);
    EXPECT_GE(stats.submitted, before.submitted);
    EXPECT_GE(stats.total.count, before.total.count);
    before = std::move(stats);
  } while (!done && !testing::Test::HasFailure());
  for (std::thread& thread : threads) thread.join();
  const EngineStats stats = recorder.snapshot();
  EXPECT_GT(snapshots, 1u);
  EXPECT_EQ(stats.submitted, kSubmitters * kRequests);
  EXPECT_EQ(stats.queued + stats.running, 0u);
  EXPECT_EQ(stats.total.count, stats.completed);
}

}  // namespace
}  // namespace tiercel
