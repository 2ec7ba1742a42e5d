#include "cli/serving_bench.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "cli/percentile.h"
#include "cli/workload.h"

namespace tiercel::cli {
namespace {

using Clock = std::chrono::steady_clock;

Request completion(std::string text, std::uint32_t tokens) {
  return {.text = std::move(text), .max_tokens = tokens, .ignore_end_of_text = true};
}

// A child that computes, on one core, until this goes.
class BusyProcess {
 public:
  BusyProcess() : child_(::fork()) {
    if (child_ != 0) return;
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    ::sched_setaffinity(0, sizeof first, &first);
    for (std::atomic<unsigned> turns = 0;;) turns.fetch_add(1, std::memory_order_relaxed);
  }
  BusyProcess(const BusyProcess&) = delete;
  BusyProcess& operator=(const BusyProcess&) = delete;
  ~BusyProcess() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  bool runs() const { return child_ > 0; }

 private:
  pid_t child_;
};

// Of a prompt that was not asked before: its answer would be known.
Result<double> decode_speed(Engine& engine, int number) {
  constexpr std::uint32_t kTokens = 129;
  auto response = engine.process_request(completion(fmt::format("Tale {}. Once upon a time", number), kTokens)).get();
  if (!response.ok()) return response.status();
  return 1e3 * (kTokens - 1) / (response->total_ms - response->ttft_ms);
}

}  // namespace

Result<StreamGaps> measure_stream_gaps(Engine& engine, std::size_t streams) {
  constexpr int kPrompts = 6;
  constexpr std::uint32_t kAnswerTokens = 256;
  std::atomic<bool> ending = false;
  std::vector<std::vector<double>> gaps_ms(streams);
  std::vector<Status> failures(streams + 1);
  std::vector<std::thread> readers;
  for (std::size_t i = 0; i < streams; ++i) {
    readers.emplace_back([&, i] {
      for (int answer = 0; !ending && failures[i].ok(); ++answer) {
        Request request = completion(fmt::format("Stream {} of {}, answer {}:", i, streams, answer), kAnswerTokens);
        request.on_token = [&, before = Clock::time_point()](const TokenEvent&) mutable {
          const auto now = Clock::now();
          if (before != Clock::time_point()) {
            gaps_ms[i].push_back(std::chrono::duration<double, std::milli>(now - before).count());
          }
          before = now;
        };
        failures[i] = engine.process_request(std::move(request)).get().status();
      }
    });
  }
  std::vector<double> ttfts_ms;
  for (int i = 0; i < kPrompts && failures.back().ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    auto response =
        engine.process_request(completion(fmt::format("Arrival {} of {}. {}", i, streams, document()), 1)).get();
    failures.back() = response.status();
    if (response.ok()) ttfts_ms.push_back(response->ttft_ms);
  }
  ending = true;
  for (std::thread& reader : readers) reader.join();
  for (Status& failure : failures) TIERCEL_RETURN_IF_ERROR(failure);
  std::vector<double> all_ms;
  for (const auto& of_stream : gaps_ms) all_ms.insert(all_ms.end(), of_stream.begin(), of_stream.end());
  return StreamGaps{
      .p50_ms = percentile(all_ms, .5), .p99_ms = percentile(all_ms, .99), .prompt_ttft_ms = percentile(ttfts_ms, .5)};
}

Result<NeighbourSpeed> measure_beside_busy_process(Engine& engine) {
  NeighbourSpeed speed;
  for (int round = 0; round < 3; ++round) {
    auto alone = decode_speed(engine, 2 * round);
    if (!alone.ok()) return alone.status();
    const BusyProcess neighbour;
    if (!neighbour.runs()) return Status::unavailable("the system starts no further process");
    auto beside = decode_speed(engine, 2 * round + 1);
    if (!beside.ok()) return beside.status();
    speed.alone_tok_s = std::max(speed.alone_tok_s, *alone);
    speed.beside_tok_s = std::max(speed.beside_tok_s, *beside);
  }
  return speed;
}

double measure_idle_cpu_share() {
  const auto cpu_s = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double before_s = cpu_s();
  constexpr std::chrono::seconds kQuiet{3};
  std::this_thread::sleep_for(kQuiet);
  return (cpu_s() - before_s) / std::chrono::duration<double>(kQuiet).count();
}

}  // namespace tiercel::cli
