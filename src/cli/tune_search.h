// The search of tiercel tune: one option at a time, and a change only where it is plainly better.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "options/option_table.h"
#include "tiercel/status.h"

namespace tiercel::cli {

// Values to try for one option, as text that OptionField::set() takes. Where several options change together (the size
// and the codec of a tier), each value has a text for each of them.
struct TuneDimension {
  std::vector<std::string> keys;
  std::vector<std::vector<std::string>> values;
};

// Some measurements of the same options. More is better.
struct TuneScore {
  std::vector<double> samples;
  double median() const;
  double least() const;
  double most() const;
};

struct TuneTrial {
  std::string change;  // "threads = 1"; empty: the options it began with
  TuneScore score;
  bool kept = false;
};

struct TuneResult {
  EngineOptions options;
  std::vector<TuneTrial> trials;
  bool timed_out = false;  // not everything was tried
  bool confirmed = true;   // false: measured again, what was found was not better, and nothing is changed
};

// A score of engine options, higher is better; called several times for the same ones.
using TuneMeasure = std::function<Result<double>(const EngineOptions& options)>;

// Coordinate descent from `start`, one pass. A value takes the place of the one before only if its median is better by
// more than `least_gain` (a share) and its samples do not overlap those of the one before; so within noise what was
// there stays. At the end the options found and `start` are measured again in turn, and `start` wins where the former
// are not better still. `has_time` is asked before each trial.
Result<TuneResult> tune(const EngineOptions& start, const std::vector<TuneDimension>& dimensions,
                        const TuneMeasure& measure, const std::function<bool()>& has_time, double least_gain = .03);

}  // namespace tiercel::cli
