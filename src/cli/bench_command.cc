// tiercel bench: the standard workload on this machine, row by row.
//
// Time is taken around process_request() and its answer, tokenizing included, as a caller in front of the engine sees
// it. Rows share one engine and its prefix cache, in the order listed, as the requests of any program would.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "cli/child_process.h"
#include "cli/commands.h"
#include "cli/report.h"
#include "cli/serving_bench.h"
#include "cli/stats_report.h"
#include "cli/workload.h"

namespace tiercel::cli {
namespace {

struct Figure {
  std::string name;  // key in the JSON, unit last
  double value;
};
using Figures = std::vector<Figure>;

Request completion(std::string text, std::uint32_t tokens) {
  return {.text = std::move(text), .max_tokens = tokens, .ignore_end_of_text = true};
}

Request question(std::size_t number, std::uint32_t tokens) {
  return {.messages = {{.role = "user", .content = fmt::format("Query {}", number)}},
          .max_tokens = tokens,
          .ignore_end_of_text = true};
}

// Milliseconds until all of `requests`, sent at once, are answered.
Result<double> time_together(Engine& engine, std::span<const Request> requests) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<ResponseFuture> futures;
  for (const Request& request : requests) futures.push_back(engine.process_request(request));
  for (ResponseFuture& future : futures) {
    if (auto response = future.get(); !response.ok()) return response.status();
  }
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Result<double> time_one(Engine& engine, const Request& request) { return time_together(engine, {&request, 1}); }

// Milliseconds for all requests, `together` at a time: a batch starts when the one before is answered.
Result<double> time_batches(Engine& engine, std::span<const Request> requests, std::size_t together) {
  double total_ms = 0;
  while (!requests.empty()) {
    const std::size_t count = std::min(together, requests.size());
    auto batch_ms = time_together(engine, requests.first(count));
    if (!batch_ms.ok()) return batch_ms;
    total_ms += *batch_ms;
    requests = requests.subspan(count);
  }
  return total_ms;
}

Result<double> best_of(Engine& engine, std::span<const Request> requests) {
  double best_ms = 0;
  for (const Request& request : requests) {
    auto one_ms = time_one(engine, request);
    if (!one_ms.ok()) return one_ms;
    best_ms = best_ms == 0 ? *one_ms : std::min(best_ms, *one_ms);
  }
  return best_ms;
}

Result<Figures> measure_cold(Engine& engine) {
  std::vector<Request> runs;
  for (int i = 0; i < 3; ++i) runs.push_back(completion(fmt::format("Run {}. {}", i, document()), 1));
  auto ttft_ms = best_of(engine, runs);
  if (!ttft_ms.ok()) return ttft_ms.status();
  return Figures{{"cold_ttft_ms", *ttft_ms}};
}

Result<Figures> measure_warm(Engine& engine) {
  const std::string shared = "Shared. " + document();
  if (auto primed = time_one(engine, completion(shared + " A1?", 1)); !primed.ok()) return primed.status();
  std::vector<Request> runs;
  for (int i = 0; i < 5; ++i) runs.push_back(completion(fmt::format("{} B{} what?", shared, i), 1));
  auto ttft_ms = best_of(engine, runs);
  if (!ttft_ms.ok()) return ttft_ms.status();
  return Figures{{"warm_ttft_ms", *ttft_ms}};
}

Result<Figures> measure_decode(Engine& engine) {
  auto response = engine.process_request(completion("Once upon a time", 129)).get();
  if (!response.ok()) return response.status();
  return Figures{{"decode_tok_s", 128e3 / (response->total_ms - response->ttft_ms)}};
}

Result<Figures> measure_requests(Engine& engine, std::size_t count, std::size_t together, std::uint32_t seed) {
  std::vector<Request> requests;
  for (std::string& prompt : shared_prefix_prompts(count, seed)) requests.push_back(completion(std::move(prompt), 32));
  auto total_ms = time_batches(engine, requests, together);
  if (!total_ms.ok()) return total_ms.status();
  return Figures{{fmt::format("req_s_{}", together), 1e3 * static_cast<double>(count) / *total_ms}};
}

double percentile(const std::vector<double>& sorted, double share) {
  const double count = static_cast<double>(sorted.size());
  return sorted[std::min(sorted.size() - 1, static_cast<std::size_t>(share * count))];
}

Result<Figures> measure_query(Engine& engine) {
  std::vector<double> latencies_ms;
  for (std::size_t i = 0; i < 40; ++i) {
    auto one_ms = time_one(engine, question(i, 8));
    if (!one_ms.ok()) return one_ms.status();
    latencies_ms.push_back(*one_ms);
  }
  std::ranges::sort(latencies_ms);
  return Figures{{"query_p50_ms", percentile(latencies_ms, .5)}, {"query_p95_ms", percentile(latencies_ms, .95)}};
}

Result<Figures> measure_query_100(Engine& engine) {
  std::vector<Request> requests;
  for (std::size_t i = 1000; i < 1300; ++i) requests.push_back(question(i, 8));
  auto total_ms = time_batches(engine, requests, 100);
  if (!total_ms.ok()) return total_ms.status();
  return Figures{{"query_req_s_100", 300e3 / *total_ms}};
}

// The answer of a new process that is given the prompt and the directory of an earlier one.
Result<Json> answer_of_new_process(const CliOptions& shared, const std::string& prompt_path,
                                   const std::string& kv_path) {
  EngineOptions engine = shared.engine;
  engine.cache.disk_dir = kv_path;
  std::vector<std::string> arguments = {"tiercel", "run", "--prompt-file", prompt_path, "--max-tokens", "1", "--json"};
  const std::vector<std::string> engine_arguments = arguments_of(engine);
  arguments.insert(arguments.end(), engine_arguments.begin(), engine_arguments.end());
  auto output = output_of_program("/proc/self/exe", arguments);
  if (!output.ok()) return output.status();
  Json answer = Json::parse(*output, nullptr, /*allow_exceptions=*/false);
  if (answer.is_discarded()) return Status::internal("a new process of this program gave no answer");
  return answer;
}

// Another process finds the prefixes that an earlier one left; nothing is asked of the user but the directory.
Result<Figures> measure_restart(Engine&, const CliOptions& shared) {
  const ScratchDirectory scratch;
  const std::string prompt_path = scratch.path() + "/prompt", kv_path = scratch.path() + "/kv";
  std::ofstream(prompt_path) << "Restart. " << document();
  double best_ms = 0;
  for (int process = 0; process < 6; ++process) {
    auto answer = answer_of_new_process(shared, prompt_path, kv_path);
    if (!answer.ok()) return answer.status();
    if (process == 0) continue;  // it computes what the others find
    const double ttft_ms = answer->value("ttft_ms", 0.);
    best_ms = best_ms == 0 ? ttft_ms : std::min(best_ms, ttft_ms);
  }
  return Figures{{"restart_ttft_ms", best_ms}};
}

Result<Figures> measure_gaps(Engine& engine) {
  Figures figures;
  for (const std::size_t streams : {1u, 8u}) {
    auto gaps = measure_stream_gaps(engine, streams);
    if (!gaps.ok()) return gaps.status();
    figures.push_back({fmt::format("gap_p50_ms_{}", streams), gaps->p50_ms});
    figures.push_back({fmt::format("gap_p99_ms_{}", streams), gaps->p99_ms});
    figures.push_back({fmt::format("gap_prompt_ttft_ms_{}", streams), gaps->prompt_ttft_ms});
  }
  return figures;
}

Result<Figures> measure_neighbour(Engine& engine) {
  auto speed = measure_beside_busy_process(engine);
  if (!speed.ok()) return speed.status();
  return Figures{{"neighbour_alone_tok_s", speed->alone_tok_s}, {"neighbour_tok_s", speed->beside_tok_s}};
}

Result<Figures> measure_idle(Engine&) { return Figures{{"idle_cpu_percent", 100 * measure_idle_cpu_share()}}; }

struct Row {
  const char* name;
  std::vector<std::string> keys;  // also names of the row
  const char* work;
  std::function<Result<Figures>(Engine&, const CliOptions&)> measure;
};

const std::vector<Row>& rows() {
  const auto requests = [](std::size_t count, std::size_t together, std::uint32_t seed) {
    return [=](Engine& engine, const CliOptions&) { return measure_requests(engine, count, together, seed); };
  };
  const auto alone = [](Result<Figures> (*measure)(Engine&)) {
    return [measure](Engine& engine, const CliOptions&) { return measure(engine); };
  };
  static const std::vector<Row> all = {
      {"cold", {"cold_ttft_ms"}, "time to first token, prompt of 1,954 tokens, nothing cached", alone(measure_cold)},
      {"warm", {"warm_ttft_ms"}, "the same, all but the question cached", alone(measure_warm)},
      {"restart", {"restart_ttft_ms"}, "the same in a new process, from its cache directory", measure_restart},
      {"decode", {"decode_tok_s"}, "output tokens a second of one request", alone(measure_decode)},
      {"req_1", {"req_s_1"}, "250-token prompts (190 shared), 32 out, one at a time", requests(8, 1, 7)},
      {"req_8", {"req_s_8"}, "the same, 8 at a time", requests(64, 8, 7)},
      {"req_32", {"req_s_32"}, "the same, 32 at a time", requests(96, 32, 9)},
      {"query", {"query_p50_ms", "query_p95_ms"}, "\"Query i\" as a chat, 8 out, one at a time", alone(measure_query)},
      {"query_100", {"query_req_s_100"}, "the same, 100 at a time", alone(measure_query_100)},
      {"gap",
       {"gap_p99_ms_1"},
       "between tokens of 1 and 8 streams, while prompts of 1,954 tokens come",
       alone(measure_gaps)},
      {"neighbour", {"neighbour_tok_s"}, "decode beside a process that keeps one core busy", alone(measure_neighbour)},
      {"idle", {"idle_cpu_percent"}, "of one core, without requests", alone(measure_idle)}};
  return all;
}

// Empty: the row exists.
std::string check_row(const std::string& name) {
  std::string known;
  for (const Row& row : rows()) {
    if (name == row.name || std::ranges::find(row.keys, name) != row.keys.end()) return {};
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return fmt::format("{} is no row; rows are {}", name, known);
}

bool is_wanted(const Row& row, const std::vector<std::string>& only) {
  return only.empty() || std::ranges::any_of(only, [&](const std::string& name) {
           return name == row.name || std::ranges::find(row.keys, name) != row.keys.end();
         });
}

int bench(const std::vector<std::string>& only, const CliOptions& shared) {
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());
  const EngineInfo& info = engine->info();
  if (auto warmed = time_one(*engine, completion("Hello there", 4)); !warmed.ok()) return fail(warmed.status());

  Json json = {{"model", info.model_name}, {"cpu", info.cpu}, {"simd", info.simd}, {"threads", info.threads}};
  std::string table;
  for (const Row& row : rows()) {
    if (!is_wanted(row, only)) continue;
    fmt::print(stderr, "bench: {} ...\n", row.name);
    auto figures = row.measure(*engine, shared);
    if (!figures.ok()) return fail(figures.status());
    for (const Figure& figure : *figures) {
      json[figure.name] = figure.value;
      table += fmt::format("{:<16} {:>10.{}f}   {}\n", figure.name, figure.value, figure.value < 100 ? 2 : 0, row.work);
    }
  }
  const EngineStats stats = engine->get_stats();
  if (shared.json) {
    json["stats"] = to_json(stats);
    print_json(json);
  } else {
    fmt::print("{}, {}, {} threads, {}\n{}\nThe engine's statistics of all rows\n", info.cpu, info.simd, info.threads,
               info.model_name, table);
    for (const auto& [name, figures] : readable_stats(stats)) fmt::print("  {:<20} {}\n", name, figures);
  }
  return kDone;
}

}  // namespace

Command add_bench_command(CLI::App& program, CliOptions& shared) {
  auto only = std::make_shared<std::vector<std::string>>();
  CLI::App* app = program.add_subcommand("bench", "Measure the standard workload");
  app->add_option("--only", *only, "This row alone; may be given several times")
      ->type_name("ROW")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->check(CLI::Validator([](std::string& name) { return check_row(name); }, ""));
  add_shared_options(*app, shared);
  app->footer(
      "Rows: cold, warm, restart, decode, req_1, req_8, req_32, query, query_100, gap, neighbour, idle.\n"
      "Example:\n  tiercel bench --only cold --only warm --json");
  return {app, [=, &shared] { return bench(*only, shared); }};
}

}  // namespace tiercel::cli
