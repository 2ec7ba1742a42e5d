#include "kv/transfer_cost.h"

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(LoadCost, FollowsWhatIsMeasured) {
  LoadCost cost;
  EXPECT_FALSE(cost.is_known());
  EXPECT_LT(cost.seconds_for(1 << 20), 0.001) << "optimistic: a wrong guess is soon corrected";
  cost.measured(1000, 0.5);
  EXPECT_DOUBLE_EQ(cost.seconds_for(4000), 2);
  for (int i = 0; i < 50; ++i) cost.measured(1000, 0.1);
  EXPECT_NEAR(cost.seconds_for(1000), 0.1, 0.001);
  EXPECT_NEAR(cost.bytes_per_s(), 10'000, 100);
}

TEST(PrefillCost, DependsOnThePosition) {
  PrefillCost cost;
  EXPECT_FALSE(cost.is_known());
  EXPECT_EQ(cost.seconds_for(1000, 0), 0);
  cost.measured(64, 0, 0.064);
  EXPECT_NEAR(cost.seconds_for(100, 0), 0.1, 1e-9) << "the only figure there is";
  EXPECT_NEAR(cost.seconds_for(100, 5000), 0.1, 1e-9);
  cost.measured(64, 5000, 0.128);
  EXPECT_NEAR(cost.seconds_for(64, 5000), 0.128, 1e-9);
  EXPECT_NEAR(cost.seconds_for(20, 0), 0.02, 1e-9) << "what is known of the beginning stays";
}

// Attention over all tokens before costs as many times as much as there are.
TEST(PrefillCost, IsALineOverThePosition) {
  const auto seconds_at = [](double position) { return 0.001 + 1e-6 * position; };
  PrefillCost cost;
  cost.measured(64, 0, 64 * seconds_at(32));
  cost.measured(64, 960, 64 * seconds_at(992));
  EXPECT_NEAR(cost.seconds_for(64, 500), 64 * seconds_at(532), 1e-9) << "between two that were measured";
  EXPECT_NEAR(cost.seconds_for(64, 8000), 64 * seconds_at(8032), 1e-9) << "beyond";
  EXPECT_NEAR(cost.seconds_for(900, 1100), 900 * seconds_at(1550), 1e-9) << "over two depths";
}

TEST(PrefillCost, NoiseBetweenTwoThatAreNearIsNotMadeLarge) {
  PrefillCost cost;
  cost.measured(64, 0, 0.064);
  cost.measured(64, 40, 0.128);
  EXPECT_LT(cost.seconds_for(1, 7199), 0.002 * 7200 / 70) << "at most as from nothing at the first token";
  PrefillCost falling;
  falling.measured(64, 0, 0.128);
  falling.measured(64, 960, 0.064);
  EXPECT_NEAR(falling.seconds_for(1, 100'000), 0.001, 1e-9) << "a deeper token costs no less";
}

TEST(PrefillCost, SumsOverDepths) {
  PrefillCost cost;
  cost.measured(2, 0, 2);           // depth 1: positions 1 and 2
  cost.measured(1000, 4095, 4000);  // depth 12
  const double whole = cost.seconds_for(8000, 0);
  EXPECT_NEAR(whole, cost.seconds_for(5000, 0) + cost.seconds_for(3000, 5000), 1e-6);
  EXPECT_GT(cost.seconds_for(100, 5000), cost.seconds_for(100, 1));
  EXPECT_GT(cost.seconds_for(1, 1'000'000'000), 0);
}

}  // namespace
}  // namespace tiercel
