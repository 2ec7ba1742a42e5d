#include "cli/check_report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "cli/bottleneck.h"
#include "cli/percentile.h"

namespace tiercel::cli {
namespace {

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

double value_of(const CheckReport& report, std::string_view key) {
  const std::vector<double> latencies_ms = report.phase("alone").latencies_ms();
  // Nothing answered is no fast answer.
  const auto latency = [&](double share) {
    return latencies_ms.empty() ? std::numeric_limits<double>::infinity() : percentile(latencies_ms, share);
  };
  if (key == "p50_ms") return latency(.5);
  if (key == "p95_ms") return latency(.95);
  if (key == "p99_ms") return latency(.99);
  if (key == "requests_per_s") return report.phase("together").requests_per_s();
  if (key == "hit_percent") return 100 * report.phase("shared").hit_rate();
  if (key == "memory_percent") {
    return percent(static_cast<double>(report.peak_resident_bytes), static_cast<double>(report.memory_bytes));
  }
  double requests = 0, errors = 0;
  for (const PhaseRecord& phase : report.phases) {
    requests += static_cast<double>(phase.requests.size());
    errors += static_cast<double>(phase.errors());
  }
  return percent(errors, requests);
}

// Of a caller who computes every prompt in full, one request at a time.
std::optional<double> uncached_value(const CheckReport& report, std::string_view key) {
  const PhaseRecord& uncached = report.phase("uncached");
  if (key == "p50_ms") return percentile(uncached.latencies_ms(), .5);
  if (key == "p95_ms") return percentile(uncached.latencies_ms(), .95);
  if (key == "p99_ms") return percentile(uncached.latencies_ms(), .99);
  if (key == "requests_per_s") return uncached.requests_per_s();
  if (key == "hit_percent") return 0;
  return std::nullopt;
}

Json to_json(const PhaseRecord& phase) {
  const auto latencies_ms = phase.latencies_ms();
  Json json = {{"name", phase.name},
               {"work", phase.work},
               {"requests", phase.requests.size()},
               {"errors", phase.errors()},
               {"seconds", phase.end_s - phase.begin_s},
               {"requests_per_s", phase.requests_per_s()},
               {"tokens_in", phase.mean_tokens(&RequestRecord::prompt_tokens)},
               {"tokens_out", phase.mean_tokens(&RequestRecord::output_tokens)},
               {"hit_percent", 100 * phase.hit_rate()},
               {"evicted_blocks", phase.evicted_blocks},
               {"p50_ms", percentile(latencies_ms, .5)},
               {"p95_ms", percentile(latencies_ms, .95)},
               {"p99_ms", percentile(latencies_ms, .99)}};
  for (const auto& [bottleneck, time_ms] : times_ms(phase)) json[fmt::format("{}_ms", to_string(bottleneck))] = time_ms;
  return json;
}

}  // namespace

const std::vector<CheckMetric>& check_metrics() {
  static const std::vector<CheckMetric> all = {{"p50_ms", "latency alone, P50", "ms", false},
                                               {"p95_ms", "latency alone, P95", "ms", false},
                                               {"p99_ms", "latency alone, P99", "ms", false},
                                               {"requests_per_s", "requests a second, together", "", true},
                                               {"hit_percent", "hit rate, shared prefixes", "%", true},
                                               {"memory_percent", "memory, most of the limit", "%", false},
                                               {"error_percent", "errors", "%", false}};
  return all;
}

std::optional<double> CheckRow::change() const {
  if (!baseline || *baseline == 0) return std::nullopt;
  return (value - *baseline) / *baseline;
}

bool CheckReport::passed() const { return std::ranges::all_of(rows, &CheckRow::passed); }

const PhaseRecord& CheckReport::phase(std::string_view name) const {
  return *std::ranges::find(phases, name, &PhaseRecord::name);
}

void judge(CheckReport& report, const CheckTargets& targets, const std::optional<CheckTargets>& earlier) {
  for (const CheckMetric& metric : check_metrics()) {
    const auto target = targets.find(metric.key);
    if (target == targets.end()) continue;
    CheckRow row{.metric = metric,
                 .target = target->second,
                 .value = value_of(report, metric.key),
                 .baseline = {},
                 .advice = {}};
    if (!earlier) {
      row.baseline = uncached_value(report, metric.key);
    } else if (const auto before = earlier->find(metric.key); before != earlier->end()) {
      row.baseline = before->second;
    }
    row.passed = metric.more_is_better ? row.value > row.target : row.value < row.target;
    row.bottleneck = bottleneck_of(report, metric.key);
    if (!row.passed) row.advice = advice_for(report, row.metric.key, row.bottleneck);
    report.rows.push_back(std::move(row));
  }
}

Json to_json(const CheckReport& report) {
  Json rows = Json::array();
  for (const CheckRow& row : report.rows) {
    Json json = {{"key", row.metric.key}, {"title", row.metric.title}, {"target", row.target}, {"value", row.value}};
    json["baseline"] = row.baseline ? Json(*row.baseline) : Json();
    json["change_percent"] = row.change() ? Json(100 * *row.change()) : Json();
    json["passed"] = row.passed;
    json["bottleneck"] = to_string(row.bottleneck);
    json["advice"] = row.advice;
    rows.push_back(std::move(json));
  }
  Json phases = Json::array();
  for (const PhaseRecord& phase : report.phases) phases.push_back(to_json(phase));
  return {{"profile", report.profile},
          {"passed", report.passed()},
          {"model", report.info.model_name},
          {"machine", {{"cpu", report.info.cpu}, {"simd", report.info.simd}, {"threads", report.info.threads}}},
          {"baseline", report.baseline},
          {"rows", std::move(rows)},
          {"phases", std::move(phases)},
          {"peak_resident_bytes", report.peak_resident_bytes},
          {"memory_limit_bytes", report.memory_bytes}};
}

std::string with_unit(const CheckMetric& metric, double value) {
  return fmt::format("{:.{}f}{}{}", value,
                     value < 10    ? 2
                     : value < 100 ? 1
                                   : 0,
                     metric.unit.empty() ? "" : " ", metric.unit);
}

std::string target_of(const CheckRow& row) {
  return fmt::format("{} {:g}{}{}", row.metric.more_is_better ? "over" : "under", row.target,
                     row.metric.unit.empty() ? "" : " ", row.metric.unit);
}

void print_report(const CheckReport& report) {
  fmt::print("{}\n{}, {}, {} threads; {}\n\n", bold(fmt::format("Profile {}", report.profile)), report.info.cpu,
             report.info.simd, report.info.threads, report.info.model_name);
  fmt::print("{}\n", bold(fmt::format("{:<30}{:>14}{:>13}{:>13}{:>9}  {:<8}{}", "", "target", "measured", "baseline",
                                      "change", "", "bottleneck")));
  for (const CheckRow& row : report.rows) {
    const auto change = row.change();
    fmt::print("{:<30}{:>14}{:>13}{:>13}{:>9}  {:<8}{}\n", row.metric.title, target_of(row),
               with_unit(row.metric, row.value), row.baseline ? with_unit(row.metric, *row.baseline) : "",
               change ? fmt::format("{:+.0f} %", 100 * *change) : "", row.passed ? "pass" : "FAIL",
               row.passed ? "" : to_string(row.bottleneck));
  }
  fmt::print("{}\n", dim("Baseline: " + report.baseline));
  for (const CheckRow& row : report.rows) {
    if (!row.passed) fmt::print("\n{}: {}. Change {}", row.metric.title, to_string(row.bottleneck), row.advice);
  }
  fmt::print("{}{}\n", report.passed() ? "" : "\n\n", bold("The load"));
  for (const PhaseRecord& phase : report.phases) {
    fmt::print("{:<10}{} requests, {}; {:.0f} tokens in, {:.0f} out, {:.0f} % reused\n", phase.name,
               phase.requests.size(), phase.work, phase.mean_tokens(&RequestRecord::prompt_tokens),
               phase.mean_tokens(&RequestRecord::output_tokens), 100 * phase.hit_rate());
    std::string times;
    for (const auto& [bottleneck, time_ms] : times_ms(phase)) {
      times += fmt::format("{}{} {:.1f}", times.empty() ? "" : ", ", to_string(bottleneck), time_ms);
    }
    const auto latencies_ms = phase.latencies_ms();
    fmt::print("{}\n",
               dim(fmt::format("          P50 {:.0f}, P95 {:.0f}, P99 {:.0f} ms; {:.1f} requests/s; mean of {} ms",
                               percentile(latencies_ms, .5), percentile(latencies_ms, .95),
                               percentile(latencies_ms, .99), phase.requests_per_s(), times)));
  }
  fmt::print("memory    at most {} of {}\n", readable_bytes(report.peak_resident_bytes),
             readable_bytes(report.memory_bytes));
}

}  // namespace tiercel::cli
