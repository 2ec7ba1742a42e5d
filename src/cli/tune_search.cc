#include "cli/tune_search.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace tiercel::cli {
namespace {

constexpr int kSamples = 3;

Result<TuneScore> measure_often(const EngineOptions& options, const TuneMeasure& measure) {
  TuneScore score;
  for (int i = 0; i < kSamples; ++i) {
    auto sample = measure(options);
    if (!sample.ok()) return sample.status();
    score.samples.push_back(*sample);
  }
  return score;
}

bool is_better(const TuneScore& one, const TuneScore& other, double least_gain) {
  return one.least() > other.most() && one.median() > other.median() * (1 + least_gain);
}

// The options with one value of a dimension; empty: they have it already, or cannot have it with the rest.
std::optional<EngineOptions> changed(const EngineOptions& options, const TuneDimension& dimension,
                                     const std::vector<std::string>& values, std::string& change) {
  EngineOptions result = options;
  bool is_change = false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const OptionField& field = *find_option(dimension.keys[i]);
    if (!field.set(result, field.key, values[i]).ok()) return std::nullopt;
    is_change = is_change || field.text(result) != field.text(options);
    change += fmt::format("{}{} = {}", i == 0 ? "" : ", ", field.key, *field.text(result));
  }
  if (!is_change || !result.validate().ok()) return std::nullopt;
  return result;
}

}  // namespace

double TuneScore::median() const {
  std::vector<double> sorted = samples;
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}

double TuneScore::least() const { return std::ranges::min(samples); }
double TuneScore::most() const { return std::ranges::max(samples); }

Result<TuneResult> tune(const EngineOptions& start, const std::vector<TuneDimension>& dimensions,
                        const TuneMeasure& measure, const std::function<bool()>& has_time, double least_gain) {
  auto first = measure_often(start, measure);
  if (!first.ok()) return first.status();
  TuneResult result{.options = start, .trials = {{.change = {}, .score = *first, .kept = true}}};
  TuneScore best = *std::move(first);
  bool is_changed = false;
  for (const TuneDimension& dimension : dimensions) {
    const EngineOptions before = result.options;
    for (const auto& values : dimension.values) {
      std::string change;
      const auto candidate = changed(before, dimension, values, change);
      if (!candidate) continue;
      if (!has_time()) {
        result.timed_out = true;
        break;
      }
      auto score = measure_often(*candidate, measure);
      if (!score.ok()) {
        // These options do not work here: a finding, not a failure.
        result.trials.push_back({.change = fmt::format("{}: {}", change, score.status().message()), .score = {}});
        continue;
      }
      const bool kept = is_better(*score, best, least_gain);
      result.trials.push_back({.change = change, .score = *score, .kept = kept});
      if (!kept) continue;
      result.options = *candidate;
      best = *std::move(score);
      is_changed = true;
    }
  }
  if (!is_changed) return result;
  // Machines get slower and faster by the minute: the two in turn.
  TuneScore found, old;
  for (int i = 0; i < 2 * kSamples; ++i) {
    auto sample = measure(i % 2 == 0 ? start : result.options);
    if (!sample.ok()) return sample.status();
    (i % 2 == 0 ? old : found).samples.push_back(*sample);
  }
  result.confirmed = is_better(found, old, least_gain);
  result.trials.push_back({.change = "again: as it began", .score = old});
  result.trials.push_back({.change = "again: what was found", .score = found, .kept = result.confirmed});
  if (!result.confirmed) result.options = start;
  return result;
}

}  // namespace tiercel::cli
