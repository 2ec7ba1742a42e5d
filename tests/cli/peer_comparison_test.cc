#include "cli/peer_comparison.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tiercel::cli {
namespace {

EngineRounds rounds(const std::string& engine, const std::string& key, const std::vector<double>& figures) {
  EngineRounds all{.engine = engine, .rounds = {}};
  for (const double figure : figures) all.rounds.push_back({{"version", "1.2"}, {key, figure}});
  return all;
}

TEST(PeerComparison, SpreadIsThatOfAnyNumberOfRounds) {
  const Spread odd = spread_of({3, 1, 2});
  EXPECT_EQ((std::vector{odd.min, odd.median, odd.max}), (std::vector<double>{1, 2, 3}));
  const Spread even = spread_of({4, 1, 2, 8});
  EXPECT_EQ((std::vector{even.min, even.median, even.max}), (std::vector<double>{1, 3, 8}));
  EXPECT_EQ(spread_of({5}).median, 5);
}

TEST(PeerComparison, RatiosPairFiguresOfTheSameRound) {
  const auto comparisons = compare(rounds("tiercel", "cold_ttft_ms", {100, 300, 200}),
                                   {rounds(kOpenVino, "cold_ttft_ms", {200, 300, 800})}, Compute::Fast);
  ASSERT_EQ(comparisons.size(), 1u);
  EXPECT_EQ(comparisons[0].against, kOpenVino);
  EXPECT_EQ(comparisons[0].of_rounds, (std::vector<double>{.5, 1, .25}));
}

TEST(PeerComparison, TheMedianDecidesWhetherABarIsMet) {
  const auto slow = compare(rounds("tiercel", "cold_ttft_ms", {10, 81, 82}),
                            {rounds(kOpenVino, "cold_ttft_ms", {100, 100, 100})}, Compute::Fast);
  EXPECT_FALSE(slow.at(0).meets_bar());
  const auto fast = compare(rounds("tiercel", "cold_ttft_ms", {10, 79, 82}),
                            {rounds(kOpenVino, "cold_ttft_ms", {100, 100, 100})}, Compute::Fast);
  EXPECT_TRUE(fast.at(0).meets_bar());
}

TEST(PeerComparison, RatesMustBeAtLeastAndTimesAtMostTheirBar) {
  const auto decode =
      compare(rounds("tiercel", "decode_tok_s", {170}), {rounds(kLlama, "decode_tok_s", {100})}, Compute::Fast);
  ASSERT_TRUE(decode.at(0).bar.has_value());
  EXPECT_FALSE(decode[0].bar->at_most);
  EXPECT_TRUE(decode[0].meets_bar());
  const auto slower =
      compare(rounds("tiercel", "decode_tok_s", {169}), {rounds(kLlama, "decode_tok_s", {100})}, Compute::Fast);
  EXPECT_FALSE(slower.at(0).meets_bar());
}

TEST(PeerComparison, APeerWithoutTheRowIsNotComparedWith) {
  const auto comparisons =
      compare(rounds("tiercel", "query_p95_ms", {50}),
              {rounds(kOpenVino, "query_p95_ms", {100}), rounds(kLlama, "decode_tok_s", {1})}, Compute::Fast);
  ASSERT_EQ(comparisons.size(), 1u);
  EXPECT_EQ(comparisons[0].against, kOpenVino);
  EXPECT_FALSE(comparisons[0].bar.has_value()) << "none is set for this row";
}

TEST(PeerComparison, OwnFiguresHaveBarsToo) {
  EngineRounds own{
      .engine = "tiercel",
      .rounds = {{{"cold_ttft_ms", 1000.}, {"restart_ttft_ms", 41.}, {"load_ms", 499.}, {"cpu", "a name"}}}};
  const auto comparisons = compare(own, {}, Compute::Fast);
  ASSERT_EQ(comparisons.size(), 2u);
  EXPECT_EQ(comparisons[0].against, "cold_ttft_ms");
  EXPECT_DOUBLE_EQ(comparisons[0].of_rounds.at(0), .041);
  EXPECT_FALSE(comparisons[0].meets_bar()) << "1/25 at most";
  EXPECT_EQ(comparisons[1].against, "");
  EXPECT_TRUE(comparisons[1].meets_bar());
}

TEST(PeerComparison, BarsAreThoseOfTheMode) {
  const EngineRounds own = rounds("tiercel", "cold_ttft_ms", {70});
  const std::vector<EngineRounds> peers = {rounds(kOpenVino, "cold_ttft_ms", {100})};
  EXPECT_TRUE(compare(own, peers, Compute::Fast).at(0).meets_bar());
  EXPECT_FALSE(compare(own, peers, Compute::Turbo).at(0).meets_bar()) << "0.6 at most";
  EXPECT_FALSE(compare(own, peers, Compute::Precise).at(0).bar.has_value());
  // What turbo's own list does not name holds as it is.
  EXPECT_TRUE(compare(rounds("tiercel", "load_ms", {500}), {}, Compute::Turbo).at(0).meets_bar());
}

}  // namespace
}  // namespace tiercel::cli
