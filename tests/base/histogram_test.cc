#include "base/histogram.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

// The value that `fraction` of the samples do not exceed, by sorting.
double exact_percentile(std::vector<double> samples, double fraction) {
  std::ranges::sort(samples);
  const auto rank = static_cast<std::size_t>(std::ceil(fraction * static_cast<double>(samples.size())));
  return samples[std::max<std::size_t>(rank, 1) - 1];
}

void expect_close(const LatencyHistogram& histogram, const std::vector<double>& samples) {
  for (const double fraction : {0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0}) {
    const double exact = exact_percentile(samples, fraction);
    EXPECT_NEAR(histogram.percentile_ms(fraction), exact, exact * 0.01 + 1e-6) << "at fraction " << fraction;
  }
}

TEST(LatencyHistogram, PercentilesAreWithinOnePercentOfExact) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> wide(1.0, 3.0);
  std::exponential_distribution<double> tail(0.05);
  std::uniform_real_distribution<double> flat(0.0, 250.0);
  const std::function<double()> shapes[] = {[&] { return wide(random); }, [&] { return tail(random); },
                                            [&] { return flat(random); },
                                            [&] { return random() % 10 == 0 ? 900.0 : 1.5; }};
  for (const auto& draw : shapes) {
    LatencyHistogram histogram;
    std::vector<double> samples(20'011);
    for (double& sample : samples) histogram.add(sample = draw());
    expect_close(histogram, samples);
  }
}

TEST(LatencyHistogram, EveryMagnitudeFromNanosecondsToHoursIsInPlace) {
  for (double ms = 1e-5; ms < 6e7; ms *= 1.37) {
    LatencyHistogram histogram;
    for (int i = 0; i < 3; ++i) histogram.add(ms);
    histogram.add(1e8);  // so that the answer is not simply clamped to the largest
    EXPECT_NEAR(histogram.percentile_ms(0.5), ms, ms * 0.01 + 1e-6);
  }
}

TEST(LatencyHistogram, SummaryAgreesWithTheSamples) {
  LatencyHistogram histogram;
  std::vector<double> samples;
  for (int i = 1; i <= 1000; ++i) histogram.add(samples.emplace_back(i * 0.25));
  const LatencyStats summary = histogram.summary();
  EXPECT_EQ(summary.count, 1000u);
  EXPECT_NEAR(summary.mean_ms, 125.125, 1e-9);
  EXPECT_NEAR(summary.p50_ms, 125.0, 1.25);
  EXPECT_NEAR(summary.p95_ms, 237.5, 2.375);
  EXPECT_NEAR(summary.p99_ms, 247.5, 2.475);
  EXPECT_NEAR(summary.p999_ms, 249.75, 2.4975);
  EXPECT_EQ(summary.max_ms, 250.0);
}

TEST(LatencyHistogram, MergedEqualsAddedTogether) {
  std::mt19937_64 random(2);
  std::lognormal_distribution<double> draw(0.0, 2.0);
  LatencyHistogram left, right, both;
  for (int i = 0; i < 5000; ++i) {
    const double sample = draw(random);
    (i % 3 == 0 ? left : right).add(sample);
    both.add(sample);
  }
  left.merge(right);
  EXPECT_EQ(left.summary().count, both.summary().count);
  EXPECT_NEAR(left.summary().mean_ms, both.summary().mean_ms, 1e-9);
  EXPECT_EQ(left.summary().max_ms, both.summary().max_ms);
  for (double fraction = 0; fraction <= 1; fraction += 0.01) {
    EXPECT_EQ(left.percentile_ms(fraction), both.percentile_ms(fraction));
  }
}

TEST(LatencyHistogram, WhatCameAfterAMarkIsADifference) {
  std::mt19937_64 random(3);
  std::lognormal_distribution<double> early(0.0, 1.0), late(2.0, 1.5);
  LatencyHistogram histogram;
  LatencyHistogram::Mark mark;
  for (int i = 0; i < 5000; ++i) histogram.add(early(random));
  histogram.copy_to(mark);
  EXPECT_EQ(histogram.summary_since(mark, 0).count, 0u);
  std::vector<double> samples(7000);
  double sum = 0;
  for (double& sample : samples) {
    histogram.add(sample = late(random));
    sum += sample;
  }
  const double largest = *std::ranges::max_element(samples);
  const LatencyStats since = histogram.summary_since(mark, LatencyHistogram::nanoseconds(largest));
  EXPECT_EQ(since.count, samples.size());
  EXPECT_NEAR(since.mean_ms, sum / 7000, 1e-5);
  EXPECT_NEAR(since.max_ms, largest, 1e-6);
  const auto expect_near = [&](double got, double fraction) {
    const double exact = exact_percentile(samples, fraction);
    EXPECT_NEAR(got, exact, 0.01 * exact + 1e-6) << fraction;
  };
  expect_near(since.p50_ms, 0.5);
  expect_near(since.p95_ms, 0.95);
  expect_near(since.p99_ms, 0.99);
  expect_near(since.p999_ms, 0.999);
}

TEST(LatencyHistogram, EmptyAndOddSamplesAreHarmless) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.percentile_ms(0.5), 0.0);
  EXPECT_EQ(histogram.summary().mean_ms, 0.0);
  histogram.add(-1.0);
  histogram.add(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(histogram.summary().count, 2u);
  EXPECT_EQ(histogram.percentile_ms(1.0), 0.0);
  histogram.add(1e30);  // beyond the last bucket: counted there
  EXPECT_EQ(histogram.summary().count, 3u);
  EXPECT_GT(histogram.percentile_ms(1.0), 6e7);
}

}  // namespace
}  // namespace tiercel
