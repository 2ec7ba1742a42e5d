// tiercel bench: the standard workload on this machine, row by row.
//
// Rows share one engine and its prefix cache, in the order listed, as the requests of any program would.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "cli/bench_rows.h"
#include "cli/bench_work.h"
#include "cli/child_process.h"
#include "cli/commands.h"
#include "cli/peer_bench.h"
#include "cli/profile_report.h"
#include "cli/report.h"
#include "cli/serving_bench.h"
#include "cli/stats_report.h"

namespace tiercel::cli {
namespace {

// Another process finds the prefixes that an earlier one left; nothing is asked of the user but the directory.
Result<Figures> measure_restart(Engine&, const Work& work, const CliOptions& shared) {
  const ScratchDirectory scratch;
  const std::string prompt_path = scratch.path() + "/prompt";
  std::ofstream(prompt_path) << work.prompts.front();
  EngineOptions engine = shared.engine;
  engine.cache.disk_dir = scratch.path() + "/kv";
  double best_ms = 0;
  for (int process = 0; process < 6; ++process) {
    auto output = run_this_program({"run", "--prompt-file", prompt_path, "--max-tokens", "1", "--json"}, engine);
    if (!output.ok()) return output.status();
    const Json answer = Json::parse(output->text, nullptr, /*allow_exceptions=*/false);
    if (answer.is_discarded()) return Status::internal("a new process of this program gave no answer");
    if (process == 0) continue;  // it computes what the others find
    const double ttft_ms = answer.value("ttft_ms", 0.);
    best_ms = best_ms == 0 ? ttft_ms : std::min(best_ms, ttft_ms);
  }
  return Figures{{"restart_ttft_ms", best_ms}};
}

// The answer is printed when its only token is there.
Result<Figures> measure_load(Engine&, const Work& work, const CliOptions& shared) {
  EngineOptions engine = shared.engine;
  engine.cache.disk_dir.clear();  // this process has it
  double best_ms = 0;
  for (int process = 0; process < 3; ++process) {
    auto output = run_this_program({"run", "--prompt", work.prompts.front(), "--max-tokens", "1", "--json"}, engine);
    if (!output.ok()) return output.status();
    best_ms = best_ms == 0 ? output->first_byte_ms : std::min(best_ms, output->first_byte_ms);
  }
  return Figures{{"load_ms", best_ms}};
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
  const char* description;
  // The work is the one of this name; empty for the rows that only this engine has.
  std::function<Result<Figures>(Engine&, const Work&, const CliOptions&)> measure;
};

const std::vector<Row>& rows() {
  const auto alone = [](Result<Figures> (*measure)(Engine&)) {
    return [measure](Engine& engine, const Work&, const CliOptions&) { return measure(engine); };
  };
  const auto on_engine = [](Engine& engine, const Work& work, const CliOptions&) { return measure_row(engine, work); };
  static const std::vector<Row> all = {
      {"cold", {"cold_ttft_ms"}, "time to first token, prompt of 1,954 tokens, nothing cached", on_engine},
      {"warm", {"warm_ttft_ms"}, "the same, all but the question cached", on_engine},
      {"restart", {"restart_ttft_ms"}, "the same in a new process, from its cache directory", measure_restart},
      {"decode", {"decode_tok_s"}, "output tokens a second of one request", on_engine},
      {"decode_again", {"decode_again_tok_s"}, "the same of a request that was answered before", on_engine},
      {"decode_8000", {"decode_8000_tok_s"}, "the same behind a prompt of 7,900 tokens", on_engine},
      {"load", {"load_ms"}, "a new process, to the first token of a short prompt", measure_load},
      {"req_1", {"req_s_1"}, "250-token prompts (190 shared), 32 out, one at a time", on_engine},
      {"req_8", {"req_s_8"}, "the same, 8 at a time", on_engine},
      {"req_32", {"req_s_32"}, "the same, 32 at a time", on_engine},
      {"query", {"query_p50_ms", "query_p95_ms"}, "\"Query i\" as a chat, 8 out, one at a time", on_engine},
      {"query_100", {"query_req_s_100"}, "the same, 100 at a time", on_engine},
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

// The work of the rows that are wanted. InvalidArgument where one of them is measured on this engine alone.
Result<std::vector<Work>> wanted_work(const std::vector<std::string>& only) {
  std::vector<Work> workload = standard_workload();
  std::vector<Work> wanted;
  for (const Row& row : rows()) {
    if (!is_wanted(row, only)) continue;
    const auto work = std::ranges::find(workload, row.name, &Work::row);
    if (work != workload.end()) {
      wanted.push_back(std::move(*work));
    } else if (!only.empty()) {
      return Status::invalid_argument(fmt::format("{} is a row of tiercel alone", row.name));
    }
  }
  return wanted;
}

// Mean |log-probability - reference| over the tokens of all texts of the file, [{"ids", "logprobs"}, ...].
Result<double> measure_deviation(Engine& engine, const std::string& reference_path) {
  auto bytes = read_file(reference_path);
  if (!bytes.ok()) return bytes.status();
  const Json texts = Json::parse(*bytes, nullptr, /*allow_exceptions=*/false);
  double sum = 0;
  std::size_t count = 0;
  for (const Json& text : texts) {
    const Request request{
        .tokens = text.value("ids", std::vector<TokenId>()), .max_tokens = 0, .prompt_logprobs = true};
    auto response = engine.process_request(request).get();
    if (!response.ok()) return response.status();
    const auto expected = text.value("logprobs", std::vector<double>());
    if (expected.size() != response->prompt_logprobs.size()) {
      return Status::invalid_argument(fmt::format("{} is no reference for this model", reference_path));
    }
    for (std::size_t i = 0; i < expected.size(); ++i) sum += std::abs(response->prompt_logprobs[i] - expected[i]);
    count += expected.size();
  }
  if (count == 0) return Status::invalid_argument(fmt::format("{} holds no reference", reference_path));
  return sum / static_cast<double>(count);
}

int bench(const std::vector<std::string>& only, const std::string& reference_path, const CliOptions& shared) {
  CliOptions warm = shared;
  warm.engine = warm_options(shared.engine);
  auto engine = open_engine(warm);
  if (!engine.ok()) return fail(engine.status());
  if (Status warmed = wait_until_warm(*engine); !warmed.ok()) return fail(warmed);
  const EngineInfo& info = engine->info();

  Json json = {{"model", info.model_name}, {"cpu", info.cpu}, {"simd", info.simd}, {"threads", info.threads}};
  std::string table;
  const std::vector<Work> workload = standard_workload();
  for (const Row& row : rows()) {
    if (!is_wanted(row, only)) continue;
    fmt::print(stderr, "bench: {} ...\n", row.name);
    const auto work = std::ranges::find(workload, row.name, &Work::row);
    const auto before = engine->get_stats().profile;
    auto figures = row.measure(*engine, work == workload.end() ? Work{} : *work, shared);
    if (!figures.ok()) return fail(figures.status());
    for (const Figure& figure : *figures) {
      json[figure.name] = figure.value;
      table += fmt::format("{:<16} {:>10.{}f}   {}\n", figure.name, figure.value, figure.value < 100 ? 2 : 0,
                           row.description);
    }
    if (const auto after = engine->get_stats().profile; !after.empty()) {
      const auto spent = spent_between(before, after);
      json["profile"][row.name] = to_json(spent);
      table += profile_table(spent, info);
    }
  }
  if (!reference_path.empty()) {
    const auto deviation = measure_deviation(*engine, reference_path);
    if (!deviation.ok()) return fail(deviation.status());
    json["logprob_deviation"] = *deviation;
    table += fmt::format("logprob_deviation {:>9.4f}   mean, from the reference\n", *deviation);
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
  struct Options {
    std::vector<std::string> only;
    bool print_workload = false;
    bool with_peers = false;
    bool profile = false;
    PeerBenchOptions peers;
  };
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("bench", "Measure the standard workload");
  app->add_option("--only", options->only, "This row alone; may be given several times")
      ->type_name("ROW")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->check(CLI::Validator([](std::string& name) { return check_row(name); }, ""));
  auto* print = app->add_flag("--print-workload", options->print_workload,
                              "Print the prompts of the rows as JSON, measure nothing");
  auto* peers =
      app->add_flag("--peers", options->with_peers, "Measure other engines on the same work, in turn, and print ratios")
          ->excludes(print);
  app->add_flag("--profile", options->profile,
                "Also print where the time of the steps went, part by part, beside what the machine allows")
      ->excludes(print)
      ->excludes(peers);
  app->add_option(
         "--reference", options->peers.reference,
         "Also print how far log-probabilities are from those of this file, as tests/data/logprobs.json has them")
      ->type_name("FILE");
  add_peer_options(*app, *peers, options->peers);
  add_shared_options(*app, shared);
  app->footer(
      "Rows: cold, warm, restart, decode, decode_again, decode_8000, load, req_1, req_8, req_32, query, query_100, "
      "gap, neighbour, idle.\n"
      "Examples:\n  tiercel bench --only cold --only warm --json\n"
      "  tiercel bench --only decode --profile\n"
      "  tiercel bench --peers --peers-python build/peers/bin/python    (bench/peers/setup makes it)");
  return {app, [=, &shared] {
            if (options->profile) shared.engine.profile_steps = true;
            if (!options->print_workload && !options->with_peers)
              return bench(options->only, options->peers.reference, shared);
            const auto workload = wanted_work(options->only);
            if (!workload.ok()) return fail_usage(workload.status().message());
            if (options->with_peers) return bench_with_peers(options->peers, *workload, shared);
            print_json(workload_json(*workload));
            return kDone;
          }};
}

}  // namespace tiercel::cli
