// tiercel check: a load test on this machine and model, against targets.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "cli/check_report.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"

namespace tiercel::cli {
namespace {

struct CheckOptions {
  std::string profile = "development";
  std::string targets_file;
  std::string baseline_file;
  std::string html_file;
  LoadShape shape;
};

const std::map<std::string, CheckTargets>& profiles() {
  static const std::map<std::string, CheckTargets> all = {
      {"development", {{"p50_ms", 200}, {"requests_per_s", 20}, {"hit_percent", 50}}},
      {"production",
       {{"p50_ms", 100},
        {"p95_ms", 500},
        {"p99_ms", 1000},
        {"requests_per_s", 100},
        {"hit_percent", 70},
        {"memory_percent", 80},
        {"error_percent", 1}}},
      {"high-performance",
       {{"p50_ms", 50}, {"p95_ms", 200}, {"requests_per_s", 200}, {"hit_percent", 80}, {"memory_percent", 70}}}};
  return all;
}

Result<Json> read_json(const std::string& path) {
  auto text = read_file(path);
  if (!text.ok()) return text.status();
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return Status::invalid_argument(fmt::format("{} is no JSON object", path));
}

Result<CheckTargets> read_targets(const std::string& path) {
  auto json = read_json(path);
  if (!json.ok()) return json.status();
  std::string known;
  for (const CheckMetric& metric : check_metrics()) known += fmt::format("{}{}", known.empty() ? "" : ", ", metric.key);
  CheckTargets targets;
  for (const auto& [key, value] : json->items()) {
    const bool is_known = std::ranges::find(check_metrics(), key, &CheckMetric::key) != check_metrics().end();
    if (!is_known || !value.is_number()) {
      return Status::invalid_argument(
          fmt::format("{}: {} is {}; give numbers for {}", path, key, is_known ? "no number" : "no target", known));
    }
    targets[key] = value.get<double>();
  }
  if (targets.empty()) return Status::invalid_argument(fmt::format("{}: no targets; give some of {}", path, known));
  return targets;
}

// The values of an earlier report.
Result<CheckTargets> read_baseline(const std::string& path) {
  auto json = read_json(path);
  if (!json.ok()) return json.status();
  CheckTargets values;
  if (const auto rows = json->find("rows"); rows != json->end() && rows->is_array()) {
    for (const Json& row : *rows) {
      const bool good = row.is_object() && row.contains("key") && row["key"].is_string() && row.contains("value") &&
                        row["value"].is_number();
      if (good) values[row["key"].get<std::string>()] = row["value"].get<double>();
    }
  }
  if (!values.empty()) return values;
  return Status::invalid_argument(fmt::format("{} is no report of tiercel check --json", path));
}

// What the process may have: the option, else what its control group allows, else the machine's memory.
std::size_t memory_of_process(const EngineOptions& options) {
  if (options.memory_limit_bytes > 0) return options.memory_limit_bytes;
  const std::size_t machine =
      static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t group = 0;
  std::ifstream("/sys/fs/cgroup/memory.max") >> group;  // cgroup v2; "max" is no number
  return group > 0 ? std::min(group, machine) : machine;
}

Status write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << std::flush;
  return file ? Status() : Status::unavailable(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

void run_load(Engine& engine, CheckReport& report) {
  const LoadShape& shape = report.shape;
  const std::uint32_t uncached = std::min<std::uint32_t>(20, shape.sequence);
  const double total = uncached + shape.sequence + shape.requests + shape.shared;
  ProgressBar bar;
  LoadRun load(engine, shape, [&](std::size_t sent) { bar.show("check", static_cast<double>(sent) / (total + 1)); });
  static_cast<void>(load.alone("warm-up", 1, false));
  report.phases.push_back(load.alone("uncached", uncached, false));
  report.phases.push_back(load.alone("alone", shape.sequence, true));
  report.phases.push_back(load.together());
  report.phases.push_back(load.shared_prefixes());
  report.peak_resident_bytes = load.peak_resident_bytes();
}

int check(const CheckOptions& options, const CliOptions& shared) {
  Result<CheckTargets> targets = profiles().at(options.profile);
  if (!options.targets_file.empty()) targets = read_targets(options.targets_file);
  if (!targets.ok()) return fail_usage(targets.status().message());
  std::optional<CheckTargets> earlier;
  if (!options.baseline_file.empty()) {
    auto values = read_baseline(options.baseline_file);
    if (!values.ok()) return fail_usage(values.status().message());
    earlier = *std::move(values);
  }
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());

  CheckReport report{.profile = options.targets_file.empty() ? options.profile : options.targets_file,
                     .baseline = earlier ? "the report " + options.baseline_file
                                         : "\"Query i\" one at a time on this engine, every prompt computed in full",
                     .info = engine->info(),
                     .options = shared.engine,
                     .shape = options.shape,
                     .phases = {},
                     .memory_bytes = memory_of_process(shared.engine),
                     .cores = std::max(1u, std::thread::hardware_concurrency()),
                     .memory = {},
                     .rows = {}};
  run_load(*engine, report);
  report.memory = engine->get_stats().memory;
  judge(report, *targets, earlier);

  if (!options.html_file.empty()) {
    if (const Status status = write_file(options.html_file, to_html(report)); !status.ok()) return fail(status);
  }
  shared.json ? print_json(to_json(report)) : print_report(report);
  return report.passed() ? kDone : kFailed;
}

void add_number(CLI::App& app, const char* name, std::uint32_t& value, const char* help) {
  app.add_option(name, value, fmt::format("{} (default: {})", help, value))->type_name("N")->check(at_least_one());
}

}  // namespace

Command add_check_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* app = program.add_subcommand("check", "A load test of this machine and model, against targets");
  app->add_option("--profile", options->profile, "development, production or high-performance (default: development)")
      ->type_name("NAME")
      ->check(CLI::Validator(
          [](std::string& name) {
            return profiles().contains(name)
                       ? std::string()
                       : fmt::format("{} is no profile; profiles are development, production, high-performance", name);
          },
          ""));
  app->add_option("--targets", options->targets_file, "Targets of your own: a JSON object such as {\"p50_ms\": 150}")
      ->type_name("FILE");
  app->add_option("--baseline", options->baseline_file, "Compare with this earlier report (--json)")->type_name("FILE");
  app->add_option("--html", options->html_file, "Write the report as a page, with histogram and timeline")
      ->type_name("FILE");
  add_number(*app, "--sequence", options->shape.sequence, "Queries one after the other, for latency");
  add_number(*app, "--requests", options->shape.requests, "Queries together, for throughput");
  add_number(*app, "--concurrency", options->shape.concurrency, "How many of these at a time");
  add_number(*app, "--shared", options->shape.shared, "Prompts with shared prefixes, for the hit rate");
  add_number(*app, "--prefixes", options->shape.prefixes, "How many different prefixes");
  add_number(*app, "--prefix-words", options->shape.prefix_words, "Words of each");
  add_number(*app, "--max-tokens", options->shape.max_tokens, "Tokens of every answer");
  add_shared_options(*app, shared);
  app->footer("Exit status 0: every row passes.\nExample:\n  tiercel check --profile production --html report.html");
  return {app, [=, &shared] { return check(*options, shared); }};
}

}  // namespace tiercel::cli
