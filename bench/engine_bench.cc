// The engine on the real model: the suites latency/ and throughput/, which are the rows of `tiercel bench`, and single
// cases, for repeating one while its code is worked on.
//
// With --peers_python=FILE (the Python that bench/peers/setup has prepared; PYTHONPATH=bench/peers) each row of the
// suites is also measured on other engines, one process each. To take turns:
//   engine_bench --peers_python=FILE --benchmark_filter='latency|throughput' --benchmark_repetitions=3
//     --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cli/bench_rows.h"
#include "cli/child_process.h"
#include "cli/default_model.h"
#include "cli/peer_runner.h"
#include "cli/workload.h"
#include "engine/stats_recorder.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

// The one engine of the run; null, with the benchmark skipped, where there is no model.
Engine* engine(benchmark::State& state) {
  static const std::unique_ptr<Engine> opened = []() -> std::unique_ptr<Engine> {
    auto made = Engine::open(cli::warm_options({.model = cli::default_model_path()}));
    return made.ok() && cli::wait_until_warm(*made).ok() ? std::make_unique<Engine>(std::move(*made)) : nullptr;
  }();
  if (!opened) state.SkipWithError("no usable model: set TIERCEL_MODEL or run ./quickstart");
  return opened.get();
}

Request completion(std::string text, std::uint32_t tokens) {
  return {.text = std::move(text), .max_tokens = tokens, .ignore_end_of_text = true};
}

// A text that no earlier run of this process has sent.
std::string unseen(const std::string& text) {
  static int number = 0;
  return "Case " + std::to_string(number++) + ". " + text;
}

// ---- The suites

// Time is what one token or request takes, the best or the median where the row has several; every figure is a counter
// of its own.
void report(benchmark::State& state, const cli::Figures& figures) {
  for (const cli::Figure& figure : figures) state.counters[figure.name] = figure.value;
  const cli::Figure& first = figures.front();
  state.SetIterationTime(first.name.ends_with("_ms") ? first.value / 1e3 : 1 / first.value);
}

void own_row(benchmark::State& state, const cli::Work& work) {
  Engine* opened = engine(state);
  if (!opened) return;
  for (auto _ : state) {
    opened->invalidate_all();  // of an earlier run
    const auto figures = cli::measure_row(*opened, work);
    if (!figures.ok()) return state.SkipWithError(figures.status().message().c_str());
    report(state, *figures);
  }
}

void peer_row(benchmark::State& state, const cli::Work& work, const cli::Peer& peer, const std::string& python) {
  const cli::ScratchDirectory scratch;
  const cli::PeerRun run{.python = python,
                         .workload_path = scratch.path() + "/workload.json",
                         .model = cli::default_model_path(),
                         .reference = ""};
  std::ofstream(run.workload_path) << cli::workload_json({work});
  for (auto _ : state) {
    const auto answer = cli::run_peer(peer, run);
    if (!answer.ok()) return state.SkipWithError(answer.status().message().c_str());
    cli::Figures figures;
    for (const auto& [key, value] : answer->items()) {
      if (value.is_number()) figures.push_back({key, value});
    }
    if (figures.empty()) return state.SkipWithError("it has no such row");
    report(state, figures);
  }
}

void register_suites(const std::string& peers_python) {
  const auto add = [](const std::string& name, auto measure) {
    benchmark::RegisterBenchmark(name.c_str(), measure)->Iterations(1)->UseManualTime()->Unit(benchmark::kMillisecond);
  };
  for (const cli::Work& work : cli::standard_workload()) {
    if (work.row == "restart" || work.row == "load") continue;  // processes of their own: tiercel bench
    const bool latency = work.row == "cold" || work.row == "warm" || work.row == "query";
    const std::string name = fmt::format("{}/{}/", latency ? "latency" : "throughput", work.row);
    add(name + "tiercel", [=](benchmark::State& state) { own_row(state, work); });
    if (peers_python.empty()) continue;
    for (const cli::Peer& peer : cli::peers()) {
      add(name + peer.name, [=, &peer](benchmark::State& state) { peer_row(state, work, peer, peers_python); });
    }
  }
}

// ---- Single cases

// Prompt tokens a second, nothing cached. Argument: words.
void cold_prompt(benchmark::State& state) {
  Engine* opened = engine(state);
  if (!opened) return;
  const std::string text = cli::document(static_cast<std::size_t>(state.range(0)));
  std::size_t tokens = 0;
  for (auto _ : state) {
    auto response = opened->process_request(completion(unseen(text), 1)).get();
    if (!response.ok()) return state.SkipWithError(response.status().message().c_str());
    tokens += response->prompt_tokens.size() - response->reused_tokens;
  }
  state.counters["tokens_per_s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}
BENCHMARK(cold_prompt)->Arg(100)->Arg(500)->UseRealTime()->Unit(benchmark::kMillisecond);

// The first token of a prompt of which all but a question is cached. Argument: words.
void warm_prompt(benchmark::State& state) {
  Engine* opened = engine(state);
  if (!opened) return;
  const std::string text = unseen(cli::document(static_cast<std::size_t>(state.range(0))));
  if (auto primed = opened->process_request(completion(text, 1)).get(); !primed.ok()) return;
  int number = 0;
  std::size_t computed = 0;
  for (auto _ : state) {
    auto response = opened->process_request(completion(text + " B" + std::to_string(number++) + " what?", 1)).get();
    if (!response.ok()) return state.SkipWithError(response.status().message().c_str());
    computed += response->prompt_tokens.size() - response->reused_tokens;
  }
  state.counters["computed_tokens"] = static_cast<double>(computed) / static_cast<double>(state.iterations());
}
BENCHMARK(warm_prompt)->Arg(500)->UseRealTime()->Unit(benchmark::kMillisecond);

// Output tokens a second, all together. Argument: requests that run at once.
void decode(benchmark::State& state) {
  Engine* opened = engine(state);
  if (!opened) return;
  constexpr std::uint32_t kOutput = 64;
  const auto together = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    std::vector<ResponseFuture> futures;
    for (std::size_t i = 0; i < together; ++i) {
      futures.push_back(opened->process_request(completion(unseen("Once upon a time"), kOutput)));
    }
    for (ResponseFuture& future : futures) {
      if (auto response = future.get(); !response.ok()) state.SkipWithError(response.status().message().c_str());
    }
  }
  const double tokens = static_cast<double>(state.iterations()) * kOutput * static_cast<double>(together);
  state.counters["tokens_per_s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
}
BENCHMARK(decode)->Arg(1)->Arg(8)->Arg(32)->Arg(100)->UseRealTime()->Unit(benchmark::kMillisecond);

// Requests a second, 32 at a time: a prompt of which most is shared by eight, 32 tokens of answer. Argument: replicas,
// which share the cores of this machine.
void replicas(benchmark::State& state) {
  EngineOptions options{.model = cli::default_model_path(), .replicas = static_cast<std::uint32_t>(state.range(0))};
  options.cache.capacity_bytes = std::size_t{256} << 20;
  auto opened = Engine::open(options);
  if (!opened.ok()) return state.SkipWithError(opened.status().message().c_str());
  constexpr std::size_t kTogether = 32, kGroups = 8;
  std::vector<Request> requests;
  for (std::size_t i = 0; i < kTogether; ++i) {
    requests.push_back(completion(
        fmt::format("Document {}. {} Question {}: what is it about?", i % kGroups, cli::document(150), i), 32));
  }
  for (auto _ : state) {
    opened->invalidate_all();
    for (const auto& response : opened->process_batch(requests)) {
      if (!response.ok()) return state.SkipWithError(response.status().message().c_str());
    }
  }
  state.counters["requests_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kTogether, benchmark::Counter::kIsRate);
  state.counters["hit_percent"] = 100 * opened->get_stats().hit_rate;
}
BENCHMARK(replicas)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

// Engine::get_stats(), after some requests.
void get_stats(benchmark::State& state) {
  Engine* opened = engine(state);
  if (!opened) return;
  for (int i = 0; i < 4; ++i) {
    auto response = opened->process_request(completion("Once upon a time", 16)).get();
    if (!response.ok()) return state.SkipWithError(response.status().message().c_str());
  }
  for (auto _ : state) benchmark::DoNotOptimize(opened->get_stats());
}
BENCHMARK(get_stats)->Unit(benchmark::kMicrosecond);

// A snapshot of all counters and latencies. Argument: endpoints, each with latencies of every size.
void snapshot(benchmark::State& state) {
  StatsRecorder recorder;
  std::mt19937 random(1);
  std::lognormal_distribution<double> latency_ms(3, 1);
  for (int i = 0; i < 10000; ++i) {
    const EndpointId endpoint =
        state.range(0) == 0 ? kNoEndpoint : recorder.endpoint(std::to_string(i % state.range(0)));
    recorder.on_queued(endpoint, 0);
    recorder.on_started(endpoint, {}, latency_ms(random));
    recorder.on_first_output_token(endpoint, latency_ms(random));
    recorder.on_output_token(endpoint, latency_ms(random));
    recorder.on_ended(endpoint, Outcome::Completed, true, latency_ms(random));
  }
  for (auto _ : state) benchmark::DoNotOptimize(recorder.snapshot());
}
BENCHMARK(snapshot)->Arg(0)->Arg(4)->Arg(17)->Unit(benchmark::kMicrosecond);

// What counting one token costs the step loop.
void count_token(benchmark::State& state) {
  StatsRecorder recorder;
  const EndpointId endpoint = state.range(0) == 0 ? kNoEndpoint : recorder.endpoint("endpoint");
  double gap_ms = 1;
  for (auto _ : state) recorder.on_output_token(endpoint, gap_ms = gap_ms > 100 ? 1 : 1.001 * gap_ms);
}
BENCHMARK(count_token)->Arg(0)->Arg(1);

}  // namespace
}  // namespace tiercel

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string peers_python;
  constexpr std::string_view kPeersPython = "--peers_python=";
  const auto rest = std::remove_if(argv + 1, argv + argc, [&](const char* argument) {
    if (!std::string_view(argument).starts_with(kPeersPython)) return false;
    peers_python = argument + kPeersPython.size();
    return true;
  });
  argc = static_cast<int>(rest - argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  tiercel::register_suites(peers_python);
  benchmark::RunSpecifiedBenchmarks();
}
