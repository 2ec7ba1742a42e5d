// What tiercel replay found, for people and for programs.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "cli/report.h"
#include "replay/hit_rate_curve.h"
#include "replay/replay.h"
#include "replay/trace.h"

namespace tiercel::cli {

struct ReplaySize {
  std::size_t blocks = 0;
  double fraction = 0;  // of the distinct blocks, as it was asked for
  double optimum = 0;   // hit rate
};

struct ReplayRun {
  std::string policy;
  ReplaySize size;
  ReplayResult result;
};

struct ReplayReport {
  std::string path;  // of the trace
  Trace trace;
  double unbounded_hit_rate = 0;
  std::size_t block_bytes = 0;  // 0: not known
  std::size_t tier_blocks = 0;  // of a tier below the cache
  std::vector<ReplaySize> sizes;
  std::vector<ReplayRun> runs;  // for each size, in order, each policy
  std::string curve_file;
  std::optional<HitRateCurve> curve;
};

// trace, requests, accesses, distinct, block_tokens, unbounded_hit_rate, runs, optimum; hit_rate, ns_per_access and
// evictions where there is one run; curve where there is one.
Json to_json(const ReplayReport& report);
// A table, and a sentence about the size to choose.
void print_report(const ReplayReport& report);

}  // namespace tiercel::cli
