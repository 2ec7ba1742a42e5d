#include "engine/stats_recorder.h"

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(StatsRecorder, CountsEachRequestOnceAndEachTokenOnce) {
  StatsRecorder recorder;
  recorder.on_rejected();
  for (int i = 0; i < 4; ++i) recorder.on_queued();
  recorder.on_started(30, 1.0);
  recorder.on_prompt_tokens_computed(10);
  recorder.on_started(0, 2.0);
  recorder.on_prompt_tokens_computed(60);
  recorder.on_first_output_token(5.0);
  recorder.on_output_token(2.0);
  recorder.on_ended(Outcome::Completed, true, 9.0);
  recorder.on_ended(Outcome::Failed, true, 3.0);
  recorder.on_ended(Outcome::Cancelled, false, 1.0);

  const EngineStats stats = recorder.snapshot();
  EXPECT_EQ(stats.submitted, 5u);
  EXPECT_EQ(stats.rejected, 1u);
  EXPECT_EQ(stats.completed, 1u);
  EXPECT_EQ(stats.failed, 1u);
  EXPECT_EQ(stats.cancelled, 1u);
  EXPECT_EQ(stats.queued, 1u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.prompt_tokens, 100u);
  EXPECT_DOUBLE_EQ(stats.hit_rate, 0.3);
  EXPECT_EQ(stats.output_tokens, 2u);
  EXPECT_EQ(stats.ttft.count, 1u);
  EXPECT_EQ(stats.per_token.count, 1u);
  EXPECT_EQ(stats.total.count, 1u) << "only completed requests have a total";
  EXPECT_NEAR(stats.total.p99_ms, 9.0, 0.09);
}

}  // namespace
}  // namespace tiercel
