// tiercel tune: which options suit this machine and model, measured.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/load_run.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/tune_search.h"
#include "tiercel/options_source.h"

namespace tiercel::cli {
namespace {

using Clock = std::chrono::steady_clock;

// What is measured, as a score of which more is better, and as people know it.
struct Goal {
  std::string_view name;
  std::string_view title;  // of the figure that people see
  double (*score)(const PhaseRecord& alone, const PhaseRecord& together, const PhaseRecord& shared,
                  std::size_t resident_bytes);
  double (*figure)(double score);
};

double seconds(const PhaseRecord& phase) { return phase.end_s - phase.begin_s; }

const Goal kGoals[] = {
    {"latency", "ms, mean of a request alone",
     [](const PhaseRecord& alone, const PhaseRecord&, const PhaseRecord&, std::size_t) {
       return alone.requests_per_s();
     },
     [](double score) { return 1e3 / score; }},
    {"throughput", "requests/s, queries together and prompts with shared prefixes",
     [](const PhaseRecord&, const PhaseRecord& together, const PhaseRecord& shared, std::size_t) {
       return static_cast<double>(together.requests.size() + shared.requests.size()) /
              (seconds(together) + seconds(shared));
     },
     [](double score) { return score; }},
    {"memory", "MiB resident",
     [](const PhaseRecord&, const PhaseRecord&, const PhaseRecord&, std::size_t resident_bytes) {
       return 1 / static_cast<double>(resident_bytes);
     },
     [](double score) { return 1 / score / (1 << 20); }},
};

struct TuneOptions {
  std::string goal = "throughput";
  std::uint32_t budget_s = 300;
  std::string output = "tiercel.toml";
  LoadShape shape{.sequence = 20, .requests = 200, .concurrency = 32, .shared = 60};
};

const Goal& goal_of(const TuneOptions& options) { return *std::ranges::find(kGoals, options.goal, &Goal::name); }

// What is tried, around the options given.
std::vector<TuneDimension> dimensions_of(const EngineOptions& start) {
  const auto numbers = [](std::string key, const std::vector<std::size_t>& values) {
    TuneDimension dimension{.keys = {std::move(key)}, .values = {}};
    for (const std::size_t value : values) dimension.values.push_back({fmt::format("{}", value)});
    return dimension;
  };
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t capacity = start.cache.capacity_bytes;
  const std::string quarter = fmt::format("{}", capacity / 4), half = fmt::format("{}", capacity / 2);
  std::vector<std::size_t> threads = {std::max<std::size_t>(1, cores / 2)};
  if (cores > 2) threads.push_back(cores - 1);
  if (start.threads > 0) threads.push_back(0);  // one per core
  return {numbers("threads", threads),
          numbers("max_batch_tokens", {256, 512, 2048, 4096}),
          numbers("target_step_ms", {50, 100, 200, 400}),
          numbers("cache.capacity_bytes", {capacity / 4, capacity / 2, capacity * 2}),
          // A part of the memory for KV as a compressed tier.
          {.keys = {"cache.capacity_bytes", "cache.memory_tier_bytes", "cache.memory_tier_codec"},
           .values = {{half, half, "lossless"}, {half, half, "int8"}, {quarter, quarter, "int4"}}}};
}

Json to_json(const TuneOptions& options, const Goal& goal, const TuneResult& result) {
  Json trials = Json::array();
  for (const TuneTrial& trial : result.trials) {
    Json figures = Json::array();
    for (const double sample : trial.score.samples) figures.push_back(goal.figure(sample));
    trials.push_back({{"change", trial.change}, {"figures", std::move(figures)}, {"kept", trial.kept}});
  }
  Json changed = Json::object();
  for (const OptionField& field : option_fields()) {
    if (!field.is_default(result.options)) changed[std::string(field.key)] = *field.text(result.options);
  }
  return {{"goal", goal.name},
          {"figure", goal.title},
          {"trials", std::move(trials)},
          {"confirmed", result.confirmed},
          {"timed_out", result.timed_out},
          {"options", std::move(changed)},
          {"file", options.output}};
}

void print_result(const TuneOptions& options, const Goal& goal, const TuneResult& result) {
  fmt::print("{}\n", bold(fmt::format("{:<84}{:>10}{:>10}{:>10}", "", "median", "least", "most")));
  for (const TuneTrial& trial : result.trials) {
    const std::string change = trial.change.empty() ? "as it began" : trial.change;
    if (trial.score.samples.empty()) {
      fmt::print("{}\n", change);
      continue;
    }
    const double one = goal.figure(trial.score.least()), other = goal.figure(trial.score.most());
    fmt::print("{:<84}{:>10.1f}{:>10.1f}{:>10.1f}{}\n", change, goal.figure(trial.score.median()), std::min(one, other),
               std::max(one, other), trial.kept && !trial.change.empty() ? "  kept" : "");
  }
  fmt::print("{}\n", dim(fmt::format("Of {}, three times each. Kept: better than all before, by more than the noise.",
                                     goal.title)));
  if (result.timed_out) fmt::print("The time was over before everything was tried: --budget gives more.\n");
  if (!result.confirmed) fmt::print("Measured again, what was found was not better: nothing is changed.\n");
  fmt::print("Written to {}, for --options\n", options.output);
}

int tune_options(const TuneOptions& options, const CliOptions& shared) {
  const Goal& goal = goal_of(options);
  const LoadShape& shape = options.shape;
  // Where the file cannot be written, say so before the work.
  const std::string trial = options.output + ".trial" + std::filesystem::path(options.output).extension().string();
  if (const Status status = save_options(shared.engine, trial); !status.ok()) return fail_usage(status.message());
  std::filesystem::remove(trial);
  const auto end = Clock::now() + std::chrono::seconds(options.budget_s);
  const auto has_time = [end] { return Clock::now() < end; };
  ProgressBar bar;
  const auto show = [&](std::size_t) {
    const double left_s = std::chrono::duration<double>(end - Clock::now()).count();
    bar.show("tune", std::clamp(1 - left_s / options.budget_s, 0., .99));
  };
  // Of the goal memory: nine tenths of the slowest run with the options it began with.
  double least_rate = std::numeric_limits<double>::infinity();
  const auto measure = [&](const EngineOptions& candidate) -> Result<double> {
    auto engine = open_engine({.options_file = {}, .given = {}, .engine = candidate});
    if (!engine.ok()) return engine.status();
    LoadRun load(*engine, shape, show);
    static_cast<void>(load.alone("warm-up", 2, false));
    PhaseRecord alone, together, shared_prefixes;
    if (goal.name == "latency") {
      alone = load.alone("alone", shape.sequence, true);
    } else {
      together = load.together();
      shared_prefixes = load.shared_prefixes();
    }
    if (alone.errors() + together.errors() + shared_prefixes.errors() > 0) {
      return Status::unavailable("requests failed");
    }
    if (goal.name == "memory") {
      const double rate = kGoals[1].score(alone, together, shared_prefixes, 0);
      const bool is_start = std::ranges::all_of(option_fields(), [&](const OptionField& field) {
        return field.text(candidate) == field.text(shared.engine);
      });
      if (is_start) least_rate = std::min(least_rate, .9 * rate);
      if (rate < least_rate) return Status::unavailable(fmt::format("{:.1f} requests/s, less than nine tenths", rate));
    }
    return goal.score(alone, together, shared_prefixes, load.peak_resident_bytes());
  };
  EngineOptions start = shared.engine;
  const bool names_model = !start.model.empty();
  if (!names_model) start.model = "model";  // for validate(); open_engine() takes the default
  auto result = tune(
      start, dimensions_of(start),
      [&](EngineOptions candidate) {
        if (!names_model) candidate.model.clear();
        return measure(candidate);
      },
      has_time);
  if (!result.ok()) return fail(result.status());
  if (!names_model) result->options.model.clear();
  if (const Status status = save_options(result->options, options.output); !status.ok()) return fail(status);
  shared.json ? print_json(to_json(options, goal, *result)) : print_result(options, goal, *result);
  return kDone;
}

}  // namespace

Command add_tune_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<TuneOptions>();
  CLI::App* app = program.add_subcommand("tune", "Search options for this machine and model, and write them to a file");
  app->add_option("--goal", options->goal, "latency, throughput or memory (default: throughput)")
      ->type_name("GOAL")
      ->check(CLI::Validator(
          [](std::string& name) {
            return std::ranges::find(kGoals, name, &Goal::name) != std::end(kGoals)
                       ? std::string()
                       : fmt::format("{} is no goal; goals are latency, throughput, memory", name);
          },
          ""));
  const auto add_number = [&](const char* name, std::uint32_t& value, const char* help) {
    app->add_option(name, value, fmt::format("{} (default: {})", help, value))->type_name("N")->check(at_least_one());
  };
  app->add_option("--output", options->output, "The options file, .toml or .json (default: tiercel.toml)")
      ->type_name("FILE");
  add_number("--budget", options->budget_s, "Seconds after which nothing new is tried");
  add_number("--sequence", options->shape.sequence, "Queries one after the other, for latency");
  add_number("--requests", options->shape.requests, "Queries together, for throughput");
  add_number("--concurrency", options->shape.concurrency, "How many of these at a time");
  add_number("--shared", options->shape.shared, "Prompts with shared prefixes, for throughput");
  add_number("--prefixes", options->shape.prefixes, "How many different prefixes");
  add_number("--prefix-words", options->shape.prefix_words, "Words of each");
  add_number("--max-tokens", options->shape.max_tokens, "Tokens of every answer");
  add_shared_options(*app, shared);
  app->footer("Example:\n  tiercel tune --goal latency --output engine.toml && tiercel chat --options engine.toml");
  return {app, [=, &shared] { return tune_options(*options, shared); }};
}

}  // namespace tiercel::cli
