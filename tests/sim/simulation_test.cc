// Random histories of the KV cache against the plain model, by what they are about. Each configuration is one test.
//
//   TIERCEL_SIM_SEED=123        that history alone, step by step; what a failure prints
//   TIERCEL_SIM_HISTORIES=1000  so many histories of each configuration
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <errno.h>
#include <gtest/gtest.h>

#include "tests/sim/simulator.h"

namespace tiercel::sim {
namespace {

// Sanitizers and unoptimised builds take ten times as long.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr std::uint64_t kHistories = 300;
#else
constexpr std::uint64_t kHistories = 4000;
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

class Simulation : public testing::TestWithParam<Configuration> {
 protected:
  // Runs history `seed`; returns what was answered. On failure says how to see it again.
  static std::vector<std::uint64_t> run(const Configuration& configuration, std::uint64_t seed, KeyFunction keys,
                                        Tally& tally, const Simulator::Log& log) {
    try {
      Simulator simulator(configuration, seed, keys, tally, log);
      simulator.run();
      return simulator.trace();
    } catch (const Violation& violation) {
      const auto* test = testing::UnitTest::GetInstance()->current_test_info();
      ADD_FAILURE() << violation.what() << "\nto see it again:\n  TIERCEL_SIM_SEED=" << seed << " "
                    << program_invocation_name << " --gtest_filter='" << test->test_suite_name() << "." << test->name()
                    << "'";
      return {};
    }
  }

  static void run_all(const Configuration& configuration, bool every_key_function) {
    std::uint64_t first = 0, last = number_from_environment("TIERCEL_SIM_HISTORIES", kHistories);
    const bool replay = std::getenv("TIERCEL_SIM_SEED") != nullptr;
    Simulator::Log log;
    if (replay) {
      last = (first = number_from_environment("TIERCEL_SIM_SEED", 0)) + 1;
      log = [](const std::string& line) { std::printf("%s\n", line.c_str()), std::fflush(stdout); };
    }
    Tally tally;
    for (std::uint64_t seed = first; seed < last && !HasFailure(); ++seed) {
      if (!every_key_function) {
        run(configuration, seed, kKeyFunctions[seed % std::size(kKeyFunctions)], tally, log);
        continue;
      }
      Tally real_keys;
      const std::vector<std::uint64_t> trace = run(configuration, seed, &xxh3_key, real_keys, log);
      EXPECT_EQ(real_keys.of(Seen::Collision), 0u);
      for (const KeyFunction keys : {kKeyFunctions[1], kKeyFunctions[2]}) {
        if (HasFailure()) return;
        EXPECT_EQ(run(configuration, seed, keys, tally, log), trace) << "keys must not change what happens";
      }
    }
    if (last - first < 300 || HasFailure()) return;
    for (const Seen seen : configuration.reaches) EXPECT_GT(tally.of(seen), (last - first) / 50) << name_of(seen);
    if (std::getenv("TIERCEL_SIM_TALLY") == nullptr) return;
    for (std::size_t i = 0; i < static_cast<std::size_t>(Seen::Count); ++i) {
      std::printf("%10llu %s\n", static_cast<unsigned long long>(tally.of(static_cast<Seen>(i))),
                  name_of(static_cast<Seen>(i)).data());
    }
  }
};

class SimulationOfKeys : public Simulation {};

TEST_P(Simulation, AnswersAreTheModels) { run_all(GetParam(), false); }
TEST_P(SimulationOfKeys, ChangeNothing) { run_all(GetParam(), true); }

std::string name_of_configuration(const testing::TestParamInfo<Configuration>& info) { return info.param.name; }

const Configuration kConfigurations[] = {
    {.name = "Sharing", .reaches = {}},
    {.name = "Policies",
     .policies = {PolicyKind::Lfu, PolicyKind::Adaptive, PolicyKind::Random, PolicyKind::Liar},
     .reaches = {}},
    {.name = "Lifetimes", .lifetimes = true, .policies = {PolicyKind::Lru, PolicyKind::Random}, .reaches = {}},
    {.name = "Quotas", .quotas = true, .policies = {PolicyKind::Lru, PolicyKind::Random}, .reaches = {}},
    {.name = "Windows", .windows = true, .policies = {PolicyKind::Lru, PolicyKind::Random}, .reaches = {}},
    {.name = "Everything",
     .windows = true,
     .quotas = true,
     .lifetimes = true,
     .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Adaptive, PolicyKind::Random, PolicyKind::Liar},
     .reaches = {}},
};
const Configuration kKeysConfiguration[] = {
    {.name = "Lru", .quotas = true, .lifetimes = true, .policies = {PolicyKind::Lru, PolicyKind::Random}}};

INSTANTIATE_TEST_SUITE_P(Of, Simulation, testing::ValuesIn(kConfigurations), name_of_configuration);
INSTANTIATE_TEST_SUITE_P(With, SimulationOfKeys, testing::ValuesIn(kKeysConfiguration), name_of_configuration);

}  // namespace
}  // namespace tiercel::sim
