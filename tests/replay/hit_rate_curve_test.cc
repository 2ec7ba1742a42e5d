#include "replay/hit_rate_curve.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "replay/curve_svg.h"
#include "tests/replay/trace_file.h"

namespace tiercel {
namespace {

const std::vector<NamedPolicy>& policies() {
  static const std::vector<NamedPolicy> all = {{"lru", lru()}, {"lfu", lfu()}, {"adaptive", adaptive()}};
  return all;
}

HitRateCurve curve_of(const Trace& trace) {
  auto curve = hit_rate_curve(trace, OfflineOptimum(trace), policies(), 0);
  EXPECT_TRUE(curve.ok()) << curve.status().to_string();
  return curve.ok() ? *std::move(curve) : HitRateCurve();
}

TEST(HitRateCurve, RunsFromOneFiveHundredthToEverything) {
  const Trace trace = trace_of(random_trace(1, {.requests = 1500}));
  std::vector<double> told;
  const auto curve = hit_rate_curve(trace, OfflineOptimum(trace), policies(), 0, [&](double share) {
    if (told.empty() || share != told.back()) told.push_back(share);
  });
  ASSERT_TRUE(curve.ok());
  ASSERT_EQ(curve->points.size(), 16u);
  EXPECT_EQ(curve->points.front().capacity_blocks, blocks_of_fraction(trace, .002));
  EXPECT_EQ(curve->points.back().capacity_blocks, trace.distinct_blocks);
  for (std::size_t i = 0; i < curve->points.size(); ++i) {
    const CurvePoint& point = curve->points[i];
    ASSERT_EQ(point.by_policy.size(), 3u);
    for (const double rate : point.by_policy) EXPECT_LE(rate, point.optimum);
    EXPECT_GT(point.capacity_blocks, i == 0 ? 0 : curve->points[i - 1].capacity_blocks);
  }
  for (const double rate : curve->points.back().by_policy) EXPECT_DOUBLE_EQ(rate, curve->unbounded_hit_rate);
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_EQ(told.back(), 1);
}

TEST(HitRateCurve, AdviceIsTheLeastThatDoesMostOfIt) {
  const Trace trace = trace_of(random_trace(2, {.requests = 1500}));
  const HitRateCurve curve = curve_of(trace);
  ASSERT_TRUE(curve.advice.has_value());
  const SizeAdvice& advice = *curve.advice;
  const auto rate = [&](const NamedPolicy& policy, std::size_t blocks) {
    return replay(trace, {.eviction = policy.factory, .capacity_blocks = blocks}).value().hit_rate();
  };
  const NamedPolicy& policy = *std::ranges::find(policies(), advice.policy, &NamedPolicy::name);
  const double wanted = .9 * curve.unbounded_hit_rate;
  EXPECT_DOUBLE_EQ(advice.hit_rate, rate(policy, advice.capacity_blocks));
  EXPECT_DOUBLE_EQ(advice.doubled_hit_rate, rate(policy, 2 * advice.capacity_blocks));
  EXPECT_GE(advice.hit_rate, wanted);
  EXPECT_LT(rate(policy, advice.capacity_blocks * 96 / 100), wanted);
  for (const CurvePoint& point : curve.points) {
    if (point.capacity_blocks >= advice.capacity_blocks) break;
    for (const double hit_rate : point.by_policy) EXPECT_LT(hit_rate, wanted);
  }
}

TEST(HitRateCurve, NoAdviceWhereNothingComesBack) {
  const Trace trace = trace_of(random_trace(1, {.requests = 50, .share_known = 0}));
  const HitRateCurve curve = curve_of(trace);
  EXPECT_EQ(curve.unbounded_hit_rate, 0);
  EXPECT_FALSE(curve.advice.has_value());
  EXPECT_NE(curve_svg(curve, trace, {.title = "x"}).find("unbounded cache: 0.0 %"), std::string::npos);
}

TEST(HitRateCurve, FractionsAreRoundedToWholeBlocks) {
  const Trace trace = trace_of(R"({"input_length":5120,"hash_ids":[1,2,3,4,5,6,7,8,9,10]})");
  EXPECT_EQ(blocks_of_fraction(trace, .29), 3u);
  EXPECT_EQ(blocks_of_fraction(trace, .0001), 1u);
  EXPECT_EQ(blocks_of_fraction(trace, 1), 10u);
}

// All numbers at places where there should be some.
std::vector<double> coordinates(const std::string& svg) {
  std::vector<double> found;
  const std::regex attribute("\\b(?:x|y|x1|x2|y1|y2|cx|cy|points)=\"([^\"]*)\"");
  const std::regex separator("[ ,]+");
  for (auto match = std::sregex_iterator(svg.begin(), svg.end(), attribute); match != std::sregex_iterator(); ++match) {
    const std::string values = (*match)[1].str();
    for (auto value = std::sregex_token_iterator(values.begin(), values.end(), separator, -1);
         value != std::sregex_token_iterator(); ++value) {
      std::size_t used = 0;
      found.push_back(std::stod(value->str(), &used));
      EXPECT_EQ(used, value->length()) << value->str();
    }
  }
  return found;
}

TEST(CurveSvg, ShowsEveryPolicyTheOptimumAndBothScales) {
  const Trace trace = trace_of(random_trace(2, {.requests = 1500}));
  const HitRateCurve curve = curve_of(trace);
  const std::string svg = curve_svg(curve, trace, {.title = "a < b & \"c\"\x01", .block_bytes = 32 << 20});
  EXPECT_EQ(svg.find("<svg "), 0u);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  for (const char* part : {">lru<", ">lfu<", ">adaptive<", ">optimum, knowing the future<", ">GiB<", ">100 %<",
                           ">0.2 %<", "a &lt; b &amp; &quot;c&quot; <", "prefers-color-scheme: dark", "1,500 requests",
                           "blocks reach 90 % of unbounded"}) {
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_EQ(svg.find("href"), std::string::npos);
  for (const double value : coordinates(svg)) {
    EXPECT_GE(value, 0);
    EXPECT_LE(value, 880);
  }
}

TEST(CurveSvg, OfTheSmallestTraceHasFinitePlaces) {
  const Trace trace = trace_of(R"({"input_length":512,"hash_ids":[1]})"
                               "\n"
                               R"({"input_length":512,"hash_ids":[1]})");
  const HitRateCurve curve = curve_of(trace);
  EXPECT_EQ(curve.points.size(), 1u);
  const std::string svg = curve_svg(curve, trace, {.title = "one block", .block_bytes = 100});
  EXPECT_NE(svg.find(">bytes<"), std::string::npos);
  for (const double value : coordinates(svg)) {
    EXPECT_TRUE(std::isfinite(value));
    EXPECT_GE(value, 0);
    EXPECT_LE(value, 880);
  }
}

}  // namespace
}  // namespace tiercel
