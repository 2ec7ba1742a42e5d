#include "tiercel/retry.h"

#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(Retry, DelaysGrowWithJitterAboveWhatTheRefusalNames) {
  double sum_ms[6] = {};
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    RetryPolicy policy({.attempts = 7, .first_delay_ms = 100, .most_delay_ms = 800, .seed = seed});
    std::uint64_t most_ms = 100;
    for (double& sum : sum_ms) {
      const auto delay = policy.next_delay(Status::rejected("full", 1000));
      ASSERT_TRUE(delay);
      ASSERT_GE(delay->count(), 1000);
      ASSERT_LE(delay->count(), static_cast<std::int64_t>(1000 + most_ms));
      sum += static_cast<double>(delay->count() - 1000);
      most_ms = std::min<std::uint64_t>(2 * most_ms, 800);
    }
    ASSERT_FALSE(policy.next_delay(Status::rejected("full"))) << "an eighth attempt";
  }
  const double means_ms[6] = {50, 100, 200, 400, 400, 400};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(sum_ms[i] / 2000, means_ms[i], 0.1 * means_ms[i]);
}

TEST(Retry, OnlyWhatMayPassByItselfIsTriedAgain) {
  for (const StatusCode code : {StatusCode::InvalidArgument, StatusCode::Cancelled, StatusCode::DeadlineExceeded,
                                StatusCode::ResourceExhausted, StatusCode::Internal}) {
    EXPECT_FALSE(RetryPolicy().next_delay(Status(code, "")));
  }
  int calls = 0;
  const RetryOptions fast{.attempts = 4, .first_delay_ms = 1};
  EXPECT_EQ(retry(fast,
                  [&]() -> Result<int> {
                    if (++calls < 3) return Status::unavailable("not yet");
                    return 7;
                  })
                .value(),
            7);
  EXPECT_EQ(calls, 3);
  calls = 0;
  EXPECT_EQ(retry(fast, [&] { return ++calls, Status::rejected("full"); }).code(), StatusCode::Rejected);
  EXPECT_EQ(calls, 4);
}

}  // namespace
}  // namespace tiercel
