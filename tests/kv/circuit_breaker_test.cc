#include "kv/circuit_breaker.h"

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(CircuitBreaker, TripsAfterFailuresInARowOnly) {
  CircuitBreaker breaker;
  for (int i = 0; i < 10; ++i) {
    for (int failure = 1; failure < CircuitBreaker::kMostFailures; ++failure) breaker.on_failure(5);
    breaker.on_success();
  }
  EXPECT_TRUE(breaker.allows(5));
  for (int i = 0; i < CircuitBreaker::kMostFailures; ++i) breaker.on_failure(5);
  EXPECT_FALSE(breaker.allows(5));
  EXPECT_FALSE(breaker.is_closed());
  EXPECT_EQ(breaker.trips(), 1u);
}

TEST(CircuitBreaker, OneProbeDecides) {
  CircuitBreaker breaker;
  breaker.on_late(10);
  EXPECT_FALSE(breaker.allows(10 + CircuitBreaker::kFirstPause_s / 2));
  double now = 10 + CircuitBreaker::kFirstPause_s;
  ASSERT_TRUE(breaker.allows(now));
  breaker.on_begin(now);
  EXPECT_FALSE(breaker.allows(now)) << "a second one waits for the first";
  breaker.on_failure(now);
  EXPECT_FALSE(breaker.allows(now + CircuitBreaker::kFirstPause_s)) << "the pause doubles";
  now += 2 * CircuitBreaker::kFirstPause_s;
  ASSERT_TRUE(breaker.allows(now));
  breaker.on_begin(now);
  breaker.on_success();
  EXPECT_TRUE(breaker.is_closed());
  breaker.on_late(now);
  EXPECT_TRUE(breaker.allows(now + CircuitBreaker::kFirstPause_s)) << "and begins anew";
}

TEST(CircuitBreaker, ThePauseHasALimit) {
  CircuitBreaker breaker;
  double now = 0;
  for (int i = 0; i < 50; ++i) {
    breaker.on_late(now);
    EXPECT_TRUE(breaker.allows(now + CircuitBreaker::kLongestPause_s));
    now += CircuitBreaker::kLongestPause_s;
  }
}

}  // namespace
}  // namespace tiercel
