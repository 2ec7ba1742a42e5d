#include "cli/tune_search.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

namespace tiercel::cli {
namespace {

constexpr int kSamples = 3;

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
    if (dimension.name.empty()) change += fmt::format("{}{} = {}", i == 0 ? "" : ", ", field.key, *field.text(result));
  }
  if (!is_change || !result.validate().ok()) return std::nullopt;
  if (!dimension.name.empty()) change = dimension.name;
  return result;
}

std::vector<std::optional<std::string>> texts_of(const EngineOptions& options) {
  std::vector<std::optional<std::string>> texts;
  for (const OptionField& field : option_fields()) texts.push_back(field.text(options));
  return texts;
}

class Search {
 public:
  Search(const EngineOptions& start, const TuneMeasure& measure, double least_gain)
      : start_(start), measure_(measure), least_gain_(least_gain) {}

  // Measures what the search begins with, and how much that varies.
  Status begin() {
    TuneScore score;
    for (int i = 0; i < kSamples; ++i) TIERCEL_RETURN_IF_ERROR(sample(start_, "as it began", score));
    least_gain_ = std::max(least_gain_, score.noise());
    result_ = {
        .options = start_, .trials = {{.change = {}, .score = score, .kept = true}}, .baseline = score, .best = score};
    return {};
  }

  // Machines get slower and faster by the minute: what is compared next is compared with the best of now.
  Status look_again() {
    result_.best = {};
    return sample(result_.options, "the best so far", result_.best);
  }

  Status consider(const EngineOptions& candidate, const std::string& change) {
    TuneScore score;
    if (const Status failed = sample(candidate, change, score); !failed.ok()) {
      // These options do not work here: a finding, not a failure.
      result_.trials.push_back({.change = fmt::format("{}: {}", change, failed.message()), .score = {}});
      return {};
    }
    bool kept = is_better(score, result_.best, least_gain_);
    for (TuneScore best; kept && score.samples.size() < kSamples;) {
      TIERCEL_RETURN_IF_ERROR(sample(result_.options, "the best so far", best));
      TIERCEL_RETURN_IF_ERROR(sample(candidate, change, score));
      kept = is_better(score, best, least_gain_);
      if (!kept) result_.best = best;
    }
    result_.trials.push_back({.change = change, .score = score, .kept = kept});
    if (!kept) return {};
    result_.options = candidate;
    result_.best = std::move(score);
    is_changed_ = true;
    return {};
  }

  // What was found, and what it began with, in turn.
  Status confirm() {
    result_.best = result_.baseline;
    if (!is_changed_) return {};
    TuneScore found, old;
    for (int i = 0; i < kSamples; ++i) {
      TIERCEL_RETURN_IF_ERROR(sample(start_, "again: as it began", old));
      TIERCEL_RETURN_IF_ERROR(sample(result_.options, "again: what was found", found));
    }
    result_.confirmed = is_better(found, old, least_gain_);
    result_.trials.push_back({.change = "again: as it began", .score = old});
    result_.trials.push_back({.change = "again: what was found", .score = found, .kept = result_.confirmed});
    if (!result_.confirmed) result_.options = start_;
    result_.best = result_.confirmed ? found : old;
    result_.baseline = std::move(old);
    return {};
  }

  TuneResult& result() { return result_; }

 private:
  Status sample(const EngineOptions& options, std::string_view trial, TuneScore& score) {
    auto measured = measure_(options, trial);
    if (measured.ok()) score.samples.push_back(*measured);
    return measured.status();
  }

  const EngineOptions start_;
  const TuneMeasure& measure_;
  double least_gain_;
  bool is_changed_ = false;
  TuneResult result_;
};

}  // namespace

double TuneScore::median() const {
  std::vector<double> sorted = samples;
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}

double TuneScore::least() const { return std::ranges::min(samples); }
double TuneScore::most() const { return std::ranges::max(samples); }

double TuneScore::noise() const { return (most() - least()) / median(); }

Result<TuneResult> tune(const EngineOptions& start, const std::vector<TuneDimension>& dimensions,
                        const TuneMeasure& measure, const std::function<bool()>& has_time, double least_gain) {
  Search search(start, measure, least_gain);
  TIERCEL_RETURN_IF_ERROR(search.begin());
  TuneResult& result = search.result();
  std::set tried = {texts_of(start)};
  bool just_measured = true;
  for (const TuneDimension& dimension : dimensions) {
    const EngineOptions before = result.options;
    for (const auto& values : dimension.values) {
      std::string change;
      const auto candidate = changed(before, dimension, values, change);
      if (!candidate || tried.contains(texts_of(*candidate))) continue;
      if (!has_time()) {
        result.timed_out = true;
        break;
      }
      tried.insert(texts_of(*candidate));
      if (!just_measured) TIERCEL_RETURN_IF_ERROR(search.look_again());
      TIERCEL_RETURN_IF_ERROR(search.consider(*candidate, change));
      just_measured = true;
    }
    just_measured = false;
  }
  TIERCEL_RETURN_IF_ERROR(search.confirm());
  return std::move(result);
}

}  // namespace tiercel::cli
