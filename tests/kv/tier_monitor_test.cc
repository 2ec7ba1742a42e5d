#include "kv/tier_monitor.h"

#include <cmath>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

struct Watched {
  double now_s = 1000;
  TierMonitor monitor{"watched", 1000, /*deadline_s=*/1, [this] { return now_s; }};

  void load(std::size_t blocks, double seconds, bool ok = true) {
    monitor.begin(blocks);
    now_s += seconds;
    monitor.end(ok, ok ? blocks : 0);
  }
};

TEST(TierMonitor, WhatGoesOnIsNoFasterThanItWasUntilNow) {
  Watched watched;
  watched.load(10, 0.1);
  EXPECT_NEAR(watched.monitor.seconds_to_load(5), 0.05, 1e-9);
  EXPECT_NEAR(watched.monitor.seconds_until_loaded(5), 0.05, 1e-9);
  watched.monitor.begin(2);
  watched.now_s += 0.4;
  EXPECT_NEAR(watched.monitor.seconds_until_loaded(4), 0.8, 1e-9);
  EXPECT_NEAR(watched.monitor.pace(0).block_s, 0.2, 1e-9);
  EXPECT_NEAR(watched.monitor.pace(3).begin_s, 0.38 + 3 * 0.2, 1e-9);
}

TEST(TierMonitor, WhatIsLateIsNotAskedUntilItEnds) {
  Watched watched;
  watched.monitor.begin(1);
  watched.now_s += 0.9;
  EXPECT_TRUE(watched.monitor.health().reads);
  watched.now_s += 0.2;
  EXPECT_FALSE(watched.monitor.health().reads);
  EXPECT_FALSE(watched.monitor.may_read());
  EXPECT_FALSE(watched.monitor.may_write());
  EXPECT_TRUE(std::isinf(watched.monitor.seconds_until_loaded(1)));
  EXPECT_TRUE(std::isinf(watched.monitor.pace(0).begin_s));
  watched.now_s += 100;  // the breaker would try again, but it still hangs
  EXPECT_FALSE(watched.monitor.may_read());
  watched.monitor.end(true, 1);
  EXPECT_TRUE(watched.monitor.may_read());
  EXPECT_EQ(watched.monitor.counts().late, 1u);
  EXPECT_EQ(watched.monitor.counts().errors, 0u);
}

TEST(TierMonitor, ReadsAndWritesFailApart) {
  Watched watched;
  for (int i = 0; i < 3; ++i) watched.load(1, 0.01, false);
  EXPECT_FALSE(watched.monitor.may_read());
  EXPECT_TRUE(watched.monitor.may_write());
  EXPECT_EQ(watched.monitor.counts().errors, 3u);
}

TEST(TierMonitor, BatchesLetOthersComeToTheirTurn) {
  Watched watched;
  EXPECT_EQ(watched.monitor.batch_blocks(), 1u) << "nothing is known";
  watched.load(1, 0.005);
  EXPECT_EQ(watched.monitor.batch_blocks(), 4u);
  EXPECT_FALSE(watched.monitor.is_stale());
  watched.now_s += 6;
  EXPECT_TRUE(watched.monitor.is_stale());
}

}  // namespace
}  // namespace tiercel
