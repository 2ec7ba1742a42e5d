#include "tests/sim/history_runner.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tiercel::sim {
namespace {

// Fewer histories where each takes longer; fewest under ThreadSanitizer, for which one thread is nothing new.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kShare = 100;
#elif defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr std::uint64_t kShare = 5;
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

// The one command that runs the history at hand again.
std::string replay_command;

void set_replay_command(std::uint64_t seed) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  replay_command = std::string("To see it again:\n  TIERCEL_SIM_SEED=") + std::to_string(seed) + " " +
                   program_invocation_name + " --gtest_filter='" + test->test_suite_name() + "." + test->name() + "'\n";
}

// For what ends the program in the middle of a history: a failed assertion, a signal, a sanitizer's report.
void say_replay_command() {
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, replay_command.data(), replay_command.size());
}

void say_replay_command_and_die(int signal) {
  say_replay_command();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void watch_for_sudden_end() {
  std::signal(SIGABRT, say_replay_command_and_die);
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(say_replay_command);  // other signals are the sanitizer's
#else
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, say_replay_command_and_die);
#endif
}

// What was answered; nothing where it failed.
std::vector<std::uint64_t> run_history(const Configuration& configuration, std::uint64_t seed, KeyFunction keys,
                                       Tally& tally, const Simulator::Log& log) {
  set_replay_command(seed);
  try {
    Simulator simulator(configuration, seed, keys, tally, log);
    simulator.run();
    return simulator.trace();
  } catch (const Violation& violation) {
    ADD_FAILURE() << violation.what() << "\n" << replay_command;
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
  std::uint64_t first = number_from_environment("TIERCEL_SIM_FIRST", 0);
  std::uint64_t last = first + number_from_environment("TIERCEL_SIM_HISTORIES", histories / kShare);
  Simulator::Log log;
  if (std::getenv("TIERCEL_SIM_SEED") != nullptr) {
    first = number_from_environment("TIERCEL_SIM_SEED", 0);
    last = first + 1;
    log = [](const std::string& line) {
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);  // the next step may be the last
    };
  }
  watch_for_sudden_end();
  Tally tally, tally_of_real_keys;
  for (std::uint64_t seed = first; seed < last && !testing::Test::HasFailure(); ++seed) {
    if (!every_key_function) {
      run_history(configuration, seed, kKeyFunctions[seed % std::size(kKeyFunctions)], tally, log);
      continue;
    }
    const auto answers = run_history(configuration, seed, &xxh3_key, tally_of_real_keys, log);
    for (const KeyFunction keys : {&short_key, &same_key}) {
      if (testing::Test::HasFailure()) return;
      EXPECT_EQ(run_history(configuration, seed, keys, tally, log), answers) << "keys changed what happens\n"
                                                                             << replay_command;
    }
  }
  replay_command.clear();
  EXPECT_EQ(tally_of_real_keys.of(Seen::Collision), 0u);
  if (std::getenv("TIERCEL_SIM_TALLY") != nullptr) print(tally);
  if (first + 100 > last || testing::Test::HasFailure()) return;  // a few histories need not reach everything
  for (const Seen seen : configuration.reaches) EXPECT_GT(tally.of(seen), (last - first) / 100) << name_of(seen);
}

}  // namespace tiercel::sim
