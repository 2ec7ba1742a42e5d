#include "cli/tune_search.h"

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
      [](const EngineOptions& o) -> Result<double> {
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
        [&](const EngineOptions&) -> Result<double> { return noise(random); }, always);
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
      [&](const EngineOptions& o) -> Result<double> { return ++calls <= 6 && o.threads == 4 ? 20 : 10; }, always);
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->confirmed);
  EXPECT_EQ(result->options.threads, 2u);
}

TEST(Tune, WhatDoesNotWorkIsATrialAndNoFailure) {
  const auto result = tune(
      start_options(), kDimensions,
      [](const EngineOptions& o) -> Result<double> {
        if (o.threads == 4) return Status::unavailable("no room");
        return o.threads == 1 ? 30 : 10;
      },
      always);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->options.threads, 1u);
  EXPECT_EQ(result->trials[2].change, "threads = 4: no room");
  const auto nothing = tune(
      start_options(), kDimensions,
      [](const EngineOptions&) -> Result<double> { return Status::not_found("no model"); }, always);
  EXPECT_EQ(nothing.status().message(), "no model");
}

TEST(Tune, StopsWhenTheTimeIsOver) {
  int trials_left = 1;
  const auto result = tune(
      start_options(), kDimensions, [](const EngineOptions& o) -> Result<double> { return o.threads; },
      [&] { return trials_left-- > 0; });
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->trials.size(), 2u);
}

}  // namespace
}  // namespace tiercel::cli
