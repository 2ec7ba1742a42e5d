#include "base/thread_team.h"

#include <atomic>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(ThreadTeam, RunsEveryIndexOnceOnAThreadOfTheTeam) {
  for (const std::size_t threads : {1u, 2u, 4u}) {
    ThreadTeam team(threads);
    ASSERT_EQ(team.threads(), threads);
    for (std::size_t count = 0; count < 300; ++count) {
      std::vector<std::atomic<int>> calls(count);
      team.run(count, [&](std::size_t index, std::size_t thread) {
        EXPECT_LT(thread, threads);
        ++calls[index];
      });
      for (const auto& called : calls) ASSERT_EQ(called, 1) << count << " tasks on " << threads << " threads";
    }
  }
}

// Plain memory, no atomics: a member that reads an old job, or a loop that returns early, is a race and a wrong sum.
TEST(ThreadTeam, OneLoopSeesWhatTheOneBeforeWrote) {
  ThreadTeam team(3);
  std::vector<std::size_t> values(100, 0);
  for (std::size_t round = 1; round <= 3000; ++round) {
    team.run(values.size(), [&](std::size_t i, std::size_t) { values[i] += round; });
    if (round % 7 == 0) {
      ASSERT_EQ(std::accumulate(values.begin(), values.end(), std::size_t{0}), values.size() * round * (round + 1) / 2);
    }
  }
}

TEST(ThreadTeam, PartsCoverTheRangeAtMultiplesOfTheGrain) {
  for (const std::size_t threads : {1u, 3u}) {
    ThreadTeam team(threads);
    for (const std::size_t grain : {1u, 8u, 64u}) {
      for (std::size_t count = 0; count < 200; ++count) {
        std::vector<std::atomic<int>> covered(count);
        team.run_parts(count, grain, [&](std::size_t begin, std::size_t end) {
          EXPECT_EQ(begin % grain, 0u);
          EXPECT_LT(begin, end);
          for (std::size_t i = begin; i < end; ++i) ++covered[i];
        });
        for (const auto& times : covered) ASSERT_EQ(times, 1);
      }
    }
  }
}

TEST(ThreadTeam, CallsOnStartOnEveryMemberButTheCaller) {
  std::atomic<int> started = 0;
  {
    ThreadTeam team(4, [&] { ++started; });
  }
  EXPECT_EQ(started, 3);
}

}  // namespace
}  // namespace tiercel
