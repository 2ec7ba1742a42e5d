// The search of tiercel tune: one option at a time, and a change only where it is plainly better.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "options/option_table.h"
#include "tiercel/status.h"

namespace tiercel::cli {

// Values to try for one option, as text that OptionField::set() takes. Where several options change together (the size
// and the codec of a tier), each value has a text for each of them.
struct TuneDimension {
  std::vector<std::string> keys;
  std::vector<std::vector<std::string>> values;
  std::string name = {};  // of what is tried, where the keys and values would be too many words
};

// Some measurements of the same options. More is better.
struct TuneScore {
  std::vector<double> samples;
  double median() const;
  double least() const;
  double most() const;
  double noise() const;  // from the least to the most, as a share of the median
};

struct TuneTrial {
  std::string change;  // "threads = 1"; empty: the options it began with
  TuneScore score;
  bool kept = false;
};

struct TuneResult {
  EngineOptions options;
  std::vector<TuneTrial> trials;
  TuneScore baseline;      // of the options it began with, and of `options`: measured in turn where these differ
  TuneScore best;          // the baseline where nothing is changed
  bool timed_out = false;  // not everything was tried
  bool confirmed = true;   // false: measured again, what was found was not better, and nothing is changed

  // By how much the best is better, as a share of the baseline.
  double gain() const { return best.median() / baseline.median() - 1; }
};

// A score of engine options, higher is better; called several times for the same ones. `trial`: what is tried, for a
// person.
using TuneMeasure = std::function<Result<double>(const EngineOptions& options, std::string_view trial)>;

// Coordinate descent from `start`, one pass. A value that is not better the first time is dropped at once. One that is
// is measured three times in turn with what it would replace, and takes its place only if its median is better by more
// than `least_gain` (a share) and than the noise of `start`, and their samples do not overlap: within noise what was
// there stays. At the end the options found and `start` are measured again in turn, and `start` wins where the former
// are not better still. Nothing is tried twice; `has_time` is asked before each trial.
Result<TuneResult> tune(const EngineOptions& start, const std::vector<TuneDimension>& dimensions,
                        const TuneMeasure& measure, const std::function<bool()>& has_time, double least_gain = .03);

}  // namespace tiercel::cli
