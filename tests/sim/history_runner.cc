#include "tests/sim/history_runner.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel::sim {
namespace {

// Sanitizers and unoptimised builds take far longer.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr std::uint64_t kShare = 20;
#else
constexpr std::uint64_t kShare = 1;
#endif

ContentKey same_key(const ContentKey&, std::span<const std::byte>) { return {}; }
// Keys of which many are equal and many are not.
ContentKey short_key(const ContentKey& parent, std::span<const std::byte> content) {
  return {.low = xxh3_key(parent, content).low & 3, .high = 0};
}
constexpr KeyFunction kKeyFunctions[] = {&xxh3_key, &short_key, &same_key};

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// What was answered; nothing where it failed.
std::vector<std::uint64_t> run_history(const Configuration& configuration, std::uint64_t seed, KeyFunction keys,
                                       Tally& tally, const Simulator::Log& log) {
  try {
    Simulator simulator(configuration, seed, keys, tally, log);
    simulator.run();
    return simulator.trace();
  } catch (const Violation& violation) {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    ADD_FAILURE() << violation.what() << "\nTo see it again:\n  TIERCEL_SIM_SEED=" << seed << " "
                  << program_invocation_name << " --gtest_filter='" << test->test_suite_name() << "." << test->name()
                  << "'";
    return {};
  }
}

void print(const Tally& tally) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(Seen::Count); ++i) {
    const auto times = static_cast<unsigned long long>(tally.of(static_cast<Seen>(i)));
    std::printf("%10llu %s\n", times, name_of(static_cast<Seen>(i)).data());
  }
}

}  // namespace

void run_histories(const Configuration& configuration, std::uint64_t histories, bool every_key_function) {
  std::uint64_t first = 0, last = number_from_environment("TIERCEL_SIM_HISTORIES", histories / kShare);
  Simulator::Log log;
  if (std::getenv("TIERCEL_SIM_SEED") != nullptr) {
    first = number_from_environment("TIERCEL_SIM_SEED", 0);
    last = first + 1;
    log = [](const std::string& line) {
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);  // the next step may be the last
    };
  }
  Tally tally, tally_of_real_keys;
  for (std::uint64_t seed = first; seed < last && !testing::Test::HasFailure(); ++seed) {
    if (!every_key_function) {
      run_history(configuration, seed, kKeyFunctions[seed % std::size(kKeyFunctions)], tally, log);
      continue;
    }
    const auto answers = run_history(configuration, seed, &xxh3_key, tally_of_real_keys, log);
    for (const KeyFunction keys : {&short_key, &same_key}) {
      if (testing::Test::HasFailure()) return;
      EXPECT_EQ(run_history(configuration, seed, keys, tally, log), answers)
          << "keys changed what happens in history " << seed;
    }
  }
  EXPECT_EQ(tally_of_real_keys.of(Seen::Collision), 0u);
  if (std::getenv("TIERCEL_SIM_TALLY") != nullptr) print(tally);
  if (first + 100 > last || testing::Test::HasFailure()) return;  // a few histories need not reach everything
  for (const Seen seen : configuration.reaches) EXPECT_GT(tally.of(seen), (last - first) / 100) << name_of(seen);
}

}  // namespace tiercel::sim
