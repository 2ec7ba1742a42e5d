// How tiercel's figures stand to those of other engines, measured in the same rounds.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/report.h"
#include "tiercel/options.h"

namespace tiercel::cli {

inline constexpr const char* kOpenVino = "OpenVINO GenAI";
inline constexpr const char* kLlama = "llama.cpp";

// The figures of one engine: for each round an object of keys such as cold_ttft_ms, as `tiercel bench --json` has them.
struct EngineRounds {
  std::string engine;
  std::vector<Json> rounds;
};

struct Spread {
  double min = 0;
  double median = 0;
  double max = 0;
};
// Of at least one value.
Spread spread_of(std::vector<double> values);

// The figure `key` in every round; empty where the engine has no such row.
std::vector<double> by_round(const EngineRounds& engine, std::string_view key);

// What tiercel sets itself to reach.
struct Bar {
  std::string_view key;
  std::string_view against;  // a peer, another key of tiercel's own, or nothing: the figure as it is
  bool at_most;              // else at least
  double limit;

  bool is_met_by(double value) const { return at_most ? value <= limit : value >= limit; }
};

struct Comparison {
  std::string key;
  std::string against;            // as Bar::against
  std::vector<double> of_rounds;  // tiercel's figure divided by the other one of the same round
  std::optional<Bar> bar = {};    // none: none is set

  bool meets_bar() const { return bar->is_met_by(spread_of(of_rounds).median); }
};

// All that can be compared, in the order of tiercel's keys: with each peer that has the row, then with what its other
// bars name; the bars are those of the mode in which tiercel computed (Compute::Precise has none). All engines have as
// many rounds.
std::vector<Comparison> compare(const EngineRounds& tiercel, const std::vector<EngineRounds>& peers, Compute compute);

}  // namespace tiercel::cli
