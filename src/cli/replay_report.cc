#include "cli/replay_report.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace tiercel::cli {
namespace {

constexpr const char* kNothingComesBack =
    "No block of this trace comes back: a cache finds nothing, whatever its size.";

double share_of(const ReplayReport& report, std::size_t blocks) {
  return static_cast<double>(blocks) / static_cast<double>(report.trace.distinct_blocks);
}

std::string bytes_of(const ReplayReport& report, std::size_t blocks) {
  return report.block_bytes == 0 ? "" : readable_bytes(blocks * report.block_bytes);
}

Json curve_to_json(const ReplayReport& report) {
  const HitRateCurve& curve = *report.curve;
  Json points = Json::array();
  for (const CurvePoint& point : curve.points) {
    Json json = {{"capacity_blocks", point.capacity_blocks},
                 {"capacity_fraction", share_of(report, point.capacity_blocks)},
                 {"optimum", point.optimum}};
    for (std::size_t i = 0; i < curve.policies.size(); ++i) json[curve.policies[i]] = point.by_policy[i];
    points.push_back(std::move(json));
  }
  Json advice = nullptr;
  if (curve.advice) {
    advice = {{"capacity_blocks", curve.advice->capacity_blocks},
              {"capacity_fraction", share_of(report, curve.advice->capacity_blocks)},
              {"policy", curve.advice->policy},
              {"hit_rate", curve.advice->hit_rate},
              {"doubled_hit_rate", curve.advice->doubled_hit_rate}};
    if (report.block_bytes > 0) advice["capacity_bytes"] = curve.advice->capacity_blocks * report.block_bytes;
  }
  return {{"file", report.curve_file}, {"points", std::move(points)}, {"advice", std::move(advice)}};
}

void print_table(const ReplayReport& report) {
  const int bytes_width = report.block_bytes == 0 ? 0 : 12;
  const auto cells = [&](const ReplaySize& size, std::string_view policy, double hit_rate) {
    return fmt::format("{:<10}{:>10}{:>{}}{:>9.3g} %{:>10.2f} %", policy, size.blocks, bytes_of(report, size.blocks),
                       bytes_width, 100 * size.fraction, 100 * hit_rate);
  };
  fmt::print("{}\n", bold(fmt::format("{:<10}{:>10}{:>{}}{:>11}{:>12}{:>12}{:>12}{:>10}", "policy", "blocks",
                                      report.block_bytes == 0 ? "" : "size", bytes_width, "share", "hit rate",
                                      "of tokens", "evictions", "ns/block")));
  auto run = report.runs.begin();
  for (const ReplaySize& size : report.sizes) {
    for (std::size_t i = 0; i < report.runs.size() / report.sizes.size(); ++i, ++run) {
      fmt::print("{}{:>10.2f} %{:>12}{:>10.0f}\n", cells(size, run->policy, run->result.hit_rate()),
                 100 * run->result.token_hit_rate(), run->result.evictions, run->result.ns_per_access());
    }
    fmt::print("{}\n", dim(cells(size, "optimum", size.optimum)));
  }
}

// From the runs alone: the least of the sizes asked for that is good enough.
std::string conclusion_of_runs(const ReplayReport& report) {
  const ReplayRun* least = nullptr;
  for (const ReplayRun& run : report.runs) {
    if (run.result.hit_rate() < HitRateCurve::kGoodShare * report.unbounded_hit_rate) continue;
    const bool better = !least || run.size.blocks < least->size.blocks ||
                        (run.size.blocks == least->size.blocks && run.result.hit_rate() > least->result.hit_rate());
    if (better) least = &run;
  }
  return fmt::format("A cache without bound would find {:.2f} %; {}.", 100 * report.unbounded_hit_rate,
                     least ? fmt::format("of these sizes, {} blocks ({}) are the fewest that find nine tenths of it",
                                         least->size.blocks, least->policy)
                           : "none of these sizes finds nine tenths of it");
}

std::string conclusion_of_curve(const ReplayReport& report, const SizeAdvice& advice) {
  const std::string bytes = report.block_bytes == 0 ? "" : ", " + bytes_of(report, advice.capacity_blocks);
  return fmt::format(
      "{} blocks ({:.1f} % of the distinct ones{}) are enough for nine tenths of what a cache without bound would "
      "find: "
      "{} finds {:.2f} % of {:.2f} %, and twice as many blocks would bring {:.2f} points more.",
      advice.capacity_blocks, 100 * share_of(report, advice.capacity_blocks), bytes, advice.policy,
      100 * advice.hit_rate, 100 * report.unbounded_hit_rate,
      100 * std::max(0., advice.doubled_hit_rate - advice.hit_rate));
}

std::string conclusion(const ReplayReport& report) {
  if (report.unbounded_hit_rate <= 0) return kNothingComesBack;
  const bool has_advice = report.curve && report.curve->advice;
  return has_advice ? conclusion_of_curve(report, *report.curve->advice) : conclusion_of_runs(report);
}

}  // namespace

Json to_json(const ReplayReport& report) {
  Json json = {{"trace", report.path},
               {"requests", report.trace.requests.size()},
               {"accesses", report.trace.accesses},
               {"distinct", report.trace.distinct_blocks},
               {"block_tokens", report.trace.block_tokens},
               {"unbounded_hit_rate", report.unbounded_hit_rate}};
  if (report.tier_blocks > 0) json["tier_blocks"] = report.tier_blocks;
  if (report.runs.size() == 1) {
    const ReplayResult& result = report.runs[0].result;
    json["hit_rate"] = result.hit_rate();
    json["ns_per_access"] = result.ns_per_access();
    json["evictions"] = result.evictions;
  }
  json["runs"] = Json::array();
  for (const ReplayRun& run : report.runs) {
    json["runs"].push_back({{"policy", run.policy},
                            {"capacity_blocks", run.size.blocks},
                            {"capacity_fraction", run.size.fraction},
                            {"hit_rate", run.result.hit_rate()},
                            {"token_hit_rate", run.result.token_hit_rate()},
                            {"evictions", run.result.evictions},
                            {"loaded_blocks", run.result.loaded_blocks},
                            {"stored_blocks", run.result.stored_blocks},
                            {"evictions_per_s", run.result.evictions_per_s()},
                            {"ns_per_access", run.result.ns_per_access()}});
  }
  json["optimum"] = Json::array();
  for (const ReplaySize& size : report.sizes) {
    json["optimum"].push_back({{"capacity_blocks", size.blocks}, {"hit_rate", size.optimum}});
  }
  if (report.curve) json["curve"] = curve_to_json(report);
  return json;
}

void print_report(const ReplayReport& report) {
  fmt::print("{} requests ask for {} blocks of {} tokens, {} of them distinct\n\n", report.trace.requests.size(),
             report.trace.accesses, report.trace.block_tokens, report.trace.distinct_blocks);
  if (report.tier_blocks > 0) fmt::print("Below the cache, a tier of {} blocks\n\n", report.tier_blocks);
  print_table(report);
  fmt::print("\n{}\n", conclusion(report));
}

}  // namespace tiercel::cli
