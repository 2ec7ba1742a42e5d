// An engine's statistics, for a program and for a person. docs/operations.md says what each figure means.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/report.h"
#include "tiercel/stats.h"

namespace tiercel::cli {

// One field per member of EngineStats and what it is made of; latencies as count, mean, p50, p95, p99, p999 and max.
Json to_json(const EngineStats& stats);

// What was counted -> the figures, since the engine opened.
std::vector<std::pair<std::string, std::string>> readable_stats(const EngineStats& stats);

}  // namespace tiercel::cli
