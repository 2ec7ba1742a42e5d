// What tiercel check found: rows against their targets, what bounds them, and what to change.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/load_run.h"
#include "cli/report.h"
#include "tiercel/engine.h"

namespace tiercel::cli {

// Where the time or the memory goes.
enum class Bottleneck { Queue, Prefill, Decode, Load, Memory };
std::string_view to_string(Bottleneck bottleneck);  // "queue", "prefill", ...

// A figure that may have a target, by its key in targets and reports: "p50_ms", "requests_per_s".
struct CheckMetric {
  std::string_view key;
  std::string_view title;
  std::string_view unit;
  bool more_is_better;
};
// In the order of a report.
const std::vector<CheckMetric>& check_metrics();

// Key of a metric -> its bound: below it, or above it where more is better.
using CheckTargets = std::map<std::string, double, std::less<>>;

struct CheckRow {
  CheckMetric metric;
  double target = 0;
  double value = 0;
  std::optional<double> baseline;
  bool passed = false;
  Bottleneck bottleneck = Bottleneck::Queue;  // likely
  std::string advice;                         // of one that did not pass: which option to change, and how

  // By how much of the baseline the value is away from it. Empty: there is none, or it is 0.
  std::optional<double> change() const;
};

struct CheckReport {
  std::string profile;   // or the file with the targets
  std::string baseline;  // what rows are compared with, as a sentence
  EngineInfo info;
  EngineOptions options;
  LoadShape shape;
  std::vector<PhaseRecord> phases;
  std::size_t peak_resident_bytes = 0;
  std::size_t memory_bytes = 0;  // that the process may have
  std::uint32_t cores = 1;       // that it may run on
  MemoryStats memory;            // at the end
  std::vector<CheckRow> rows;

  bool passed() const;
  const PhaseRecord& phase(std::string_view name) const;
};

// Fills report.rows from its phases. Values of `earlier` are the baseline; without one, what the phase "uncached" gave.
void judge(CheckReport& report, const CheckTargets& targets, const std::optional<CheckTargets>& earlier);

Json to_json(const CheckReport& report);
// "12.3", "98 %", ... with the metric's unit.
std::string with_unit(const CheckMetric& metric, double value);
// "under 200 ms".
std::string target_of(const CheckRow& row);
void print_report(const CheckReport& report);
// One page with nothing outside of it, no script: rows, advice, latency histogram, timeline.
std::string to_html(const CheckReport& report);

}  // namespace tiercel::cli
