// tiercel tune: which options suit this machine and model, measured.
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/default_model.h"
#include "cli/load_run.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/tune_dimensions.h"
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

const Goal kLatency = {"latency", "ms, mean of a request alone",
                       [](const PhaseRecord& alone, const PhaseRecord&, const PhaseRecord&, std::size_t) {
                         return alone.requests_per_s();
                       },
                       [](double score) { return 1e3 / score; }};
const Goal kThroughput = {"throughput", "requests/s, queries together and prompts with shared prefixes",
                          [](const PhaseRecord&, const PhaseRecord& together, const PhaseRecord& shared, std::size_t) {
                            return static_cast<double>(together.requests.size() + shared.requests.size()) /
                                   (seconds(together) + seconds(shared));
                          },
                          [](double score) { return score; }};
const Goal kMemory = {"memory", "MiB resident",
                      [](const PhaseRecord&, const PhaseRecord&, const PhaseRecord&, std::size_t resident_bytes) {
                        return 1 / static_cast<double>(resident_bytes);
                      },
                      [](double score) { return 1 / score / (1 << 20); }};
const Goal kGoals[] = {kLatency, kThroughput, kMemory};

struct TuneOptions {
  std::string goal = "throughput";
  std::uint32_t budget_s = 300;
  std::string output = "tiercel.toml";
  LoadShape shape{.sequence = 20, .requests = 128, .concurrency = 32, .shared = 48};
};

const Goal& goal_of(const TuneOptions& options) { return *std::ranges::find(kGoals, options.goal, &Goal::name); }

bool are_equal(const EngineOptions& a, const EngineOptions& b) {
  return std::ranges::all_of(option_fields(), [&](const OptionField& field) { return field.text(a) == field.text(b); });
}

// Measures options by a load on a new engine, of a size that the budget has time for.
class TuneLoad {
 public:
  TuneLoad(const TuneOptions& options, const EngineOptions& start)
      : options_(options), goal_(goal_of(options)), start_(start), shape_(options.shape) {}

  // Measures `start` with a small part of the load, and cuts the load so that the six runs of `start` take half of the
  // budget at most. The first run is also the one that pays for what the system caches.
  Status fit() {
    constexpr std::uint32_t kPart = 8;
    shape_ = part_of(options_.shape, 1. / kPart);
    for (const char* what : {"a first look", "a second one"}) {
      if (auto score = (*this)(start_, what); !score.ok()) return score.status();
    }
    shape_ = part_of(options_.shape, options_.budget_s / 12. / (kPart * run_s_));
    return {};
  }

  Result<double> operator()(const EngineOptions& candidate, std::string_view trial) {
    ::malloc_trim(0);  // what engines before left behind is not this one's
    const auto begin = Clock::now();
    auto engine = open_engine({.options_file = {}, .given = {}, .engine = candidate});
    if (!engine.ok()) return engine.status();
    LoadRun load(*engine, shape_, [&](std::size_t) {
      bar_.show(fmt::format("tune: {}", trial), std::clamp(1 - left_s() / options_.budget_s, 0., .99));
    });
    static_cast<void>(load.alone("warm-up", 2, false));
    PhaseRecord alone, together, shared_prefixes;
    if (goal_.name == "latency") {
      alone = load.alone("alone", shape_.sequence, true);
    } else {
      together = load.together();
      shared_prefixes = load.shared_prefixes();
    }
    run_s_ = std::chrono::duration<double>(Clock::now() - begin).count();
    const bool is_start = are_equal(candidate, start_);
    if (is_start) start_run_s_ = run_s_;
    if (alone.errors() + together.errors() + shared_prefixes.errors() > 0) {
      return Status::unavailable("requests failed");
    }
    if (goal_.name == "memory") {
      const double rate = kThroughput.score(alone, together, shared_prefixes, 0);
      if (is_start) least_rate_ = std::min(least_rate_, .9 * rate);
      if (rate < least_rate_) return Status::unavailable(fmt::format("{:.1f} requests/s, less than nine tenths", rate));
    }
    return goal_.score(alone, together, shared_prefixes, load.peak_resident_bytes());
  }

  // For one more trial, and to measure again what was found and what it began with.
  bool has_time() const { return left_s() > run_s_ + 3 * (run_s_ + start_run_s_); }

 private:
  static LoadShape part_of(LoadShape shape, double share) {
    const auto cut = [share](std::uint32_t count, std::uint32_t least) {
      return std::min(count, std::max(least, static_cast<std::uint32_t>(share * count)));
    };
    shape.sequence = cut(shape.sequence, 4);
    shape.requests = cut(shape.requests, 8);
    shape.shared = cut(shape.shared, 8);
    return shape;
  }
  double left_s() const { return options_.budget_s - std::chrono::duration<double>(Clock::now() - begin_).count(); }

  const TuneOptions options_;
  const Goal& goal_;
  const EngineOptions start_;
  LoadShape shape_;
  ProgressBar bar_;
  const Clock::time_point begin_ = Clock::now();
  double run_s_ = 0, start_run_s_ = 0;  // the last one took, and the last one of `start`
  // Of the goal memory: nine tenths of the slowest run with the options it began with.
  double least_rate_ = std::numeric_limits<double>::infinity();
};

Json to_json(const Goal& goal, const TuneScore& score) {
  Json samples = Json::array();
  for (const double sample : score.samples) samples.push_back(goal.figure(sample));
  return samples;
}

Json to_json(const TuneOptions& options, const Goal& goal, const TuneResult& result) {
  Json trials = Json::array();
  for (const TuneTrial& trial : result.trials) {
    trials.push_back({{"change", trial.change}, {"figures", to_json(goal, trial.score)}, {"kept", trial.kept}});
  }
  Json changed = Json::object();
  for (const OptionField& field : option_fields()) {
    if (!field.is_default(result.options)) changed[std::string(field.key)] = *field.text(result.options);
  }
  return {{"goal", goal.name},
          {"figure", goal.title},
          {"baseline", goal.figure(result.baseline.median())},
          {"best", goal.figure(result.best.median())},
          {"gain_percent", 100 * result.gain()},
          {"noise_percent", 100 * result.baseline.noise()},
          {"trials", std::move(trials)},
          {"confirmed", result.confirmed},
          {"timed_out", result.timed_out},
          {"options", std::move(changed)},
          {"file", options.output}};
}

void print_result(const TuneOptions& options, const Goal& goal, const TuneResult& result) {
  fmt::print("{}\n", bold(fmt::format("{:<92}{:>10}{:>10}{:>10}", goal.title, "median", "least", "most")));
  const auto print_row = [&](const std::string& name, const TuneScore& score, std::string_view remark) {
    const double one = goal.figure(score.least()), other = goal.figure(score.most());
    fmt::print("{:<92}{:>10.1f}{:>10.1f}{:>10.1f}{}\n", name, goal.figure(score.median()), std::min(one, other),
               std::max(one, other), remark);
  };
  for (const TuneTrial& trial : result.trials) {
    const std::string change = trial.change.empty() ? "as it began" : trial.change;
    if (trial.score.samples.empty()) {
      fmt::print("{}\n", change);
    } else {
      print_row(change, trial.score, trial.kept && !trial.change.empty() ? "  kept" : "");
    }
  }
  fmt::print("{}\n",
             dim("Measured once where that was not better, else three times. Kept: better than all before, by more "
                 "than the noise."));
  if (result.timed_out) fmt::print("The time was over before everything was tried: --budget gives more.\n");
  if (!result.confirmed) fmt::print("Measured again, what was found was not better: nothing is changed.\n");
  const double baseline = goal.figure(result.baseline.median()), best = goal.figure(result.best.median());
  if (result.gain() > 0) {
    fmt::print("{}\n",
               bold(fmt::format("{:.1f} as it began, {:.1f} with what was found: {:.0f} % better ({:.0f} % noise)",
                                baseline, best, 100 * result.gain(), 100 * result.baseline.noise())));
  } else {
    fmt::print("{}\n", bold(fmt::format("{:.1f} as it began ({:.0f} % noise), and nothing found is better", baseline,
                                        100 * result.baseline.noise())));
  }
  fmt::print("Written to {}, for --options\n", options.output);
}

int tune_options(const TuneOptions& options, const CliOptions& shared) {
  // Where the file cannot be written, say so before the work.
  const std::string trial = options.output + ".trial" + std::filesystem::path(options.output).extension().string();
  if (const Status status = save_options(shared.engine, trial); !status.ok()) return fail_usage(status.message());
  std::filesystem::remove(trial);
  EngineOptions start = shared.engine;
  if (start.model.empty()) start.model = default_model_path();  // for validate()
  const Goal& goal = goal_of(options);
  const bool is_alone = goal.name == kLatency.name;
  const auto dimensions = tune_dimensions(start, std::max(1u, std::thread::hardware_concurrency()), is_alone);
  auto result = [&]() -> Result<TuneResult> {
    TuneLoad load(options, start);
    if (const Status status = load.fit(); !status.ok()) return status;
    return tune(start, dimensions, std::ref(load), [&] { return load.has_time(); });
  }();
  if (!result.ok()) return fail(result.status());
  result->options.model = shared.engine.model;
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
