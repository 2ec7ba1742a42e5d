// Random histories of serving. TIERCEL_SIM_SEED=123 runs one alone, TIERCEL_SIM_HISTORIES=1000 so many,
// TIERCEL_SIM_FIRST=5000 from that seed on.
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/engine/serving_simulator.h"

namespace tiercel::sim {
namespace {

// Fewer where each takes longer.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kHistories = 300;
#elif defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr std::uint64_t kHistories = 750;
#else
constexpr std::uint64_t kHistories = 5'000;
#endif

TEST(ServingSimulation, EveryHistoryKeepsItsPromises) {
  const auto number = [](const char* name, std::uint64_t otherwise) {
    const char* given = std::getenv(name);
    return given ? std::strtoull(given, nullptr, 10) : otherwise;
  };
  const bool alone = std::getenv("TIERCEL_SIM_SEED") != nullptr;
  const std::uint64_t first = alone ? number("TIERCEL_SIM_SEED", 0) : number("TIERCEL_SIM_FIRST", 0);
  const std::uint64_t histories = alone ? 1 : number("TIERCEL_SIM_HISTORIES", kHistories);
  ServingTally tally;
  for (std::uint64_t seed = first; seed < first + histories; ++seed) {
    // Also where the history ends the program: an assertion of the code under test, a sanitizer's report.
    SCOPED_TRACE(seed);
    try {
      run_serving_history(seed, tally);
    } catch (const std::exception& violation) {
      FAIL() << violation.what() << "\nTo see it again:\n  TIERCEL_SIM_SEED=" << seed << " " << program_invocation_name
             << " --gtest_filter=ServingSimulation.*";
    }
  }
  const std::pair<const char*, std::size_t> reached[] = {{"completed", tally.completed},
                                                         {"cancelled", tally.cancelled},
                                                         {"late", tally.late},
                                                         {"failed", tally.failed},
                                                         {"rejected", tally.rejected},
                                                         {"too large", tally.too_large},
                                                         {"several choices", tally.choices},
                                                         {"preempted", tally.preempted},
                                                         {"demoted", tally.demoted},
                                                         {"blocks loaded", tally.loaded_blocks},
                                                         {"overtaken", tally.overtakings},
                                                         {"held by a quota", tally.held_by_quota},
                                                         {"tokens reused", tally.reused_tokens},
                                                         {"tokens drafted", tally.drafted_tokens},
                                                         {"drafted tokens accepted", tally.accepted_tokens}};
  for (const auto& [what, times] : reached) {
    if (std::getenv("TIERCEL_SIM_TALLY") != nullptr) std::printf("%10zu %s\n", times, what);
    if (histories >= 200) {
      EXPECT_GT(times, histories / 20) << what;
    }
  }
}

}  // namespace
}  // namespace tiercel::sim
