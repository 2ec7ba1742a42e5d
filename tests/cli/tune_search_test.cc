#include "cli/tune_search.h"
#include "cli/tune_dimensions.h"

#include <cmath>
#include <map>
#include <random>

#include <gtest/gtest.h>

namespace tiercel::cli {
namespace {

EngineOptions start_options() {
  EngineOptions options;
  options.model = "model.gguf";
  options.threads = 2;
  return options;
}

const std::vector<TuneDimension> kDimensions = {{{"threads"}, {{"1"}, {"2"}, {"4"}}},
                                                {{"max_batch_tokens"}, {{"256"}, {"2048"}, {"4096"}}}};
bool always() { return true; }

TEST(Tune, FindsWhatIsPlainlyBetter) {
  const auto result = tune(
      start_options(), kDimensions,
      [](const EngineOptions& o, std::string_view) -> Result<double> {
        return 10. * o.threads - std::abs(static_cast<double>(o.max_batch_tokens) - 2048) / 1000;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->options.threads, 4u);
  EXPECT_EQ(result->options.max_batch_tokens, 1024u) << "a gain of less than 3 % is none";
  EXPECT_TRUE(result->confirmed);
  EXPECT_FALSE(result->timed_out);
  // As it began, threads 1 and 4 (2 is there), three budgets, and the two again.
  EXPECT_EQ(result->trials.size(), 1u + 2 + 3 + 2);
}

TEST(Tune, LeavesEverythingWithinNoise) {
  int changed = 0;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> noise(90, 110);
    const auto result = tune(
        start_options(), {{{"threads"}, {{"1"}}}},
        [&](const EngineOptions&, std::string_view) -> Result<double> { return noise(random); }, always);
    ASSERT_TRUE(result.ok());
    changed += result->options.threads != 2;
  }
  // Three against three at random do not overlap in one of twenty, and that twice in one of four hundred.
  EXPECT_LE(changed, 3);
}

TEST(Tune, ALuckyMomentIsNotConfirmed) {
  int calls = 0;
  const auto result = tune(
      start_options(), {{{"threads"}, {{"4"}}}},
      [&](const EngineOptions& o, std::string_view) -> Result<double> {
        return ++calls <= 8 && o.threads == 4 ? 20 : 10;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->confirmed);
  EXPECT_EQ(result->options.threads, 2u);
}

TEST(Tune, AMachineThatGetsFasterIsNoGain) {
  int calls = 0;
  const auto result = tune(
      start_options(), kDimensions,
      [&](const EngineOptions&, std::string_view) -> Result<double> { return ++calls <= 3 ? 10 : 20; }, always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->options.threads, 2u);
  for (std::size_t i = 1; i < result->trials.size(); ++i)
    EXPECT_FALSE(result->trials[i].kept) << result->trials[i].change;
}

TEST(Tune, WhatDoesNotWorkIsATrialAndNoFailure) {
  const auto result = tune(
      start_options(), kDimensions,
      [](const EngineOptions& o, std::string_view) -> Result<double> {
        if (o.threads == 4) return Status::unavailable("no room");
        return o.threads == 1 ? 30 : 10;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->options.threads, 1u);
  EXPECT_EQ(result->trials[2].change, "threads = 4: no room");
  const auto nothing = tune(
      start_options(), kDimensions,
      [](const EngineOptions&, std::string_view) -> Result<double> { return Status::not_found("no model"); }, always);
  EXPECT_EQ(nothing.status().message(), "no model");
}

// Options that are in each other's way: no one of them is better alone.
TEST(Tune, SeveralChangeTogether) {
  EngineOptions start = start_options();
  start.threads = 1;
  start.max_batch_tokens = 256;
  std::vector<TuneDimension> dimensions = kDimensions;
  dimensions.insert(dimensions.begin(), {{"threads", "max_batch_tokens"}, {{"4", "2048"}}, "both"});
  const auto result = tune(
      start, dimensions,
      [](const EngineOptions& o, std::string_view) -> Result<double> {
        return o.threads == 4 && o.max_batch_tokens == 2048 ? 30 : 10;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->trials[1].change, "both");
  EXPECT_EQ(result->options.threads, 4u);
  EXPECT_EQ(result->options.max_batch_tokens, 2048u);
  EXPECT_DOUBLE_EQ(result->gain(), 2);
}

TEST(Tune, WhatIsWorseIsMeasuredOnceAndNothingTwice) {
  std::map<std::uint32_t, int> measured;
  const auto result = tune(
      start_options(), {{{"threads"}, {{"1"}, {"4"}, {"1"}}}, {{"threads"}, {{"1"}, {"2"}, {"8"}}}},
      [&](const EngineOptions& o, std::string_view) -> Result<double> {
        ++measured[o.threads];
        return o.threads;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->options.threads, 8u);
  const std::map<std::uint32_t, int> expected = {{1, 1}, {2, 3 + 2 + 3}, {4, 3 + 1 + 2}, {8, 3 + 3}};
  EXPECT_EQ(measured, expected);
}

// An engine of 32 requests at a time, by a rule of thumb: as fast as its threads, its batch, its steps and its cache
// let it be.
double requests_per_s(const EngineOptions& o, std::size_t cores) {
  const double threads =
      o.threads == 0 ? static_cast<double>(cores) : std::min<double>(o.threads, static_cast<double>(cores));
  const double batch = std::min(
      {32., static_cast<double>(o.max_batch_sequences), static_cast<double>(o.cache.capacity_bytes >> 20) / 8});
  const double steps = std::min(1., static_cast<double>(o.max_batch_tokens) / 512.) *
                       (o.target_step_ms == 0 ? 1 : std::min(1., o.target_step_ms / 40));
  return threads * batch / (batch + 8) * (0.2 + steps);
}

TEST(Tune, ABadFileIsMended) {
  const auto bad = [](const auto& spoil) {
    EngineOptions options = start_options();
    options.threads = 0;
    spoil(options);
    return options;
  };
  const double good = requests_per_s(bad([](EngineOptions&) {}), 8);
  for (const EngineOptions& start :
       {bad([](EngineOptions& o) { o.threads = 1; }), bad([](EngineOptions& o) { o.cache.capacity_bytes = 16 << 20; }),
        bad([](EngineOptions& o) { o.target_step_ms = 1; }), bad([](EngineOptions& o) { o.max_batch_sequences = 1; }),
        bad([](EngineOptions& o) {
          o.threads = 1;
          o.cache.capacity_bytes = 16 << 20;
          o.target_step_ms = 1;
          o.max_batch_sequences = 2;
          o.max_batch_tokens = 32;
        })}) {
    const auto result = tune(
        start, tune_dimensions(start, 8, false),
        [](const EngineOptions& o, std::string_view) -> Result<double> { return requests_per_s(o, 8); }, always);
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->confirmed);
    EXPECT_GE(requests_per_s(result->options, 8), good);
    EXPECT_NEAR(result->best.median(), requests_per_s(result->options, 8), 1e-9);
    EXPECT_NEAR(result->baseline.median(), requests_per_s(start, 8), 1e-9);
  }
}

TEST(Tune, StopsWhenTheTimeIsOver) {
  int trials_left = 1;
  const auto result = tune(
      start_options(), kDimensions,
      [](const EngineOptions& o, std::string_view) -> Result<double> { return o.threads; },
      [&] { return trials_left-- > 0; });
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->trials.size(), 2u);
}

}  // namespace
}  // namespace tiercel::cli
