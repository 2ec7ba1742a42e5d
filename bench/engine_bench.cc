// The engine on the real model. `tiercel bench` measures the workload that engines are compared on; these are single
// cases, for repeating one while its code is worked on.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cli/default_model.h"
#include "cli/workload.h"
#include "engine/stats_recorder.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

// The one engine of the run; null, with the benchmark skipped, where there is no model.
Engine* engine(benchmark::State& state) {
  static const std::unique_ptr<Engine> opened = []() -> std::unique_ptr<Engine> {
    auto made = Engine::open({.model = cli::default_model_path()});
    return made.ok() ? std::make_unique<Engine>(std::move(*made)) : nullptr;
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
BENCHMARK(cold_prompt)->Arg(100)->Arg(500)->Arg(1950)->UseRealTime()->Unit(benchmark::kMillisecond);

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
BENCHMARK(warm_prompt)->Arg(500)->Arg(1950)->UseRealTime()->Unit(benchmark::kMillisecond);

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
