#include "cli/peer_comparison.h"

#include <algorithm>
#include <cassert>
#include <span>

namespace tiercel::cli {
namespace {

constexpr Bar kFastBars[] = {
    {.key = "cold_ttft_ms", .against = kOpenVino, .at_most = true, .limit = .8},
    {.key = "cold_ttft_ms", .against = kLlama, .at_most = true, .limit = .16},
    {.key = "warm_ttft_ms", .against = kOpenVino, .at_most = true, .limit = .5},
    {.key = "restart_ttft_ms", .against = kLlama, .at_most = true, .limit = .6},
    {.key = "restart_ttft_ms", .against = "cold_ttft_ms", .at_most = true, .limit = 1. / 25},
    {.key = "decode_tok_s", .against = kOpenVino, .at_most = false, .limit = 2.2},
    {.key = "decode_tok_s", .against = kLlama, .at_most = false, .limit = 1.7},
    {.key = "decode_8000_tok_s", .against = "decode_tok_s", .at_most = false, .limit = .5},
    {.key = "load_ms", .against = "", .at_most = true, .limit = 500},
    {.key = "req_s_1", .against = kOpenVino, .at_most = false, .limit = 1.6},
    {.key = "req_s_8", .against = kOpenVino, .at_most = false, .limit = 1.6},
    {.key = "req_s_32", .against = kOpenVino, .at_most = false, .limit = 1.6},
    {.key = "query_p50_ms", .against = "", .at_most = true, .limit = 60},
    {.key = "query_req_s_100", .against = kOpenVino, .at_most = false, .limit = 2},
    {.key = "logprob_deviation", .against = "", .at_most = true, .limit = .03},
};
// What turbo is to reach where that is more, or, for its quality, less.
constexpr Bar kTurboBars[] = {
    {.key = "cold_ttft_ms", .against = kOpenVino, .at_most = true, .limit = .6},
    {.key = "req_s_1", .against = kOpenVino, .at_most = false, .limit = 2},
    {.key = "req_s_8", .against = kOpenVino, .at_most = false, .limit = 2},
    {.key = "req_s_32", .against = kOpenVino, .at_most = false, .limit = 2},
    {.key = "query_req_s_100", .against = kOpenVino, .at_most = false, .limit = 3},
    {.key = "query_req_s_100", .against = "", .at_most = false, .limit = 100},
    {.key = "logprob_deviation", .against = "", .at_most = true, .limit = .065},
};

std::optional<Bar> find_bar(std::span<const Bar> bars, std::string_view key, std::string_view against) {
  const auto bar = std::ranges::find_if(bars, [&](const Bar& b) { return b.key == key && b.against == against; });
  return bar == bars.end() ? std::nullopt : std::optional(*bar);
}

std::vector<Bar> bars_of(Compute compute) {
  std::vector<Bar> bars;
  if (compute == Compute::Precise) return bars;
  if (compute == Compute::Turbo) bars.assign(std::begin(kTurboBars), std::end(kTurboBars));
  for (const Bar& bar : kFastBars) {
    if (!find_bar(bars, bar.key, bar.against)) bars.push_back(bar);
  }
  return bars;
}

std::vector<double> divided(std::vector<double> values, const std::vector<double>& divisors) {
  assert(values.size() == divisors.size());
  std::ranges::transform(values, divisors, values.begin(), std::divides());
  return values;
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {.min = values.front(), .median = median, .max = values.back()};
}

std::vector<double> by_round(const EngineRounds& engine, std::string_view key) {
  std::vector<double> values;
  for (const Json& round : engine.rounds) {
    if (const auto figure = round.find(key); figure != round.end() && figure->is_number()) values.push_back(*figure);
  }
  return values;
}

std::vector<Comparison> compare(const EngineRounds& tiercel, const std::vector<EngineRounds>& peers, Compute compute) {
  const std::vector<Bar> bars = bars_of(compute);
  std::vector<Comparison> comparisons;
  for (const auto& [key, figure] : tiercel.rounds.front().items()) {
    if (!figure.is_number()) continue;
    const std::vector<double> own = by_round(tiercel, key);
    for (const EngineRounds& peer : peers) {
      const std::vector<double> other = by_round(peer, key);
      if (other.empty()) continue;
      comparisons.push_back({key, peer.engine, divided(own, other), find_bar(bars, key, peer.engine)});
    }
    for (const Bar& bar : bars) {
      if (bar.key != key || bar.against == kOpenVino || bar.against == kLlama) continue;
      if (bar.against.empty()) {
        comparisons.push_back({key, "", own, bar});
      } else if (const std::vector<double> other = by_round(tiercel, bar.against); !other.empty()) {
        comparisons.push_back({key, std::string(bar.against), divided(own, other), bar});
      }
    }
  }
  return comparisons;
}

}  // namespace tiercel::cli
