#include "base/step_profile.h"

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

PartTime time_of(const StepProfile& profile, const std::string& name) {
  const auto parts = profile.parts();
  const auto part = std::ranges::find(parts, name, &PartTime::name);
  return part == parts.end() ? PartTime{.name = "missing", .seconds = -1} : *part;
}

void spend() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

TEST(StepProfile, WhatIsWithinAPartIsNotCountedTwice) {
  const auto start = std::chrono::steady_clock::now();
  StepProfile profile;
  {
    const PartTimer outer(&profile, StepPart::Answer);
    spend();
    {
      const PartTimer inner(&profile, StepPart::Sample, 0.25);
      spend();
    }
    { const PartTimer inner(&profile, StepPart::Sample, 0.5); }
    spend();
  }
  profile.publish();
  const double passed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GE(time_of(profile, "answer").seconds, 4e-3);
  EXPECT_GE(time_of(profile, "sample").seconds, 2e-3);
  EXPECT_EQ(time_of(profile, "sample").bound_s, 0.75);
  EXPECT_EQ(time_of(profile, "answer").bound_s, 0);
  double sum_s = 0;
  for (const PartTime& part : profile.parts()) sum_s += part.seconds;
  EXPECT_LE(sum_s, passed_s);
}

// What others did meanwhile, by their own clock: all of it where there was time for it, else as much less of each.
TEST(StepProfile, TimeIsDivided) {
  const auto start = std::chrono::steady_clock::now();
  StepProfile profile;
  {
    const PartTimer outer(&profile, StepPart::Copy);
    spend();
    const StepProfile::Portion portions[] = {
        {StepPart::Norm, 0.5e-3}, {StepPart::Head, 1e-3}, {StepPart::Norm, 0.25e-3}};
    profile.divide(portions);
  }
  profile.publish();
  EXPECT_DOUBLE_EQ(time_of(profile, "norm").seconds, 0.75e-3);
  EXPECT_DOUBLE_EQ(time_of(profile, "head").seconds, 1e-3);
  EXPECT_GE(time_of(profile, "copy").seconds, 0.2e-3);
  {
    const PartTimer outer(&profile, StepPart::Copy);
    const StepProfile::Portion portions[] = {{StepPart::Qkv, 3000}, {StepPart::Down, 1000}};
    profile.divide(portions);
  }
  profile.publish();
  EXPECT_GT(time_of(profile, "down").seconds, 0);
  EXPECT_NEAR(time_of(profile, "qkv").seconds / time_of(profile, "down").seconds, 3, 1e-6);
  double sum_s = 0;
  for (const PartTime& part : profile.parts()) sum_s += part.seconds;
  EXPECT_LE(sum_s, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

TEST(StepProfile, IsReadAsOfTheLastStep) {
  StepProfile profile;
  { const PartTimer timer(&profile, StepPart::Head, 1); }
  EXPECT_EQ(time_of(profile, "head").bound_s, 0) << "not published yet";
  profile.publish();
  EXPECT_EQ(time_of(profile, "head").bound_s, 1);
}

TEST(StepProfile, ATimerWithoutProfileDoesNothing) { const PartTimer timer(nullptr, StepPart::Head, 1); }

}  // namespace
}  // namespace tiercel
