// The rows of the standard workload as this engine does them.
//
// Time is taken around process_request() and its answer, tokenizing included, as a caller in front of the engine sees
// it.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_work.h"
#include "tiercel/engine.h"

namespace tiercel::cli {

struct Figure {
  std::string name;  // key in the JSON, unit last
  double value;
};
using Figures = std::vector<Figure>;

// Any row of standard_workload() but restart and load, which take processes of their own.
Result<Figures> measure_row(Engine& engine, const Work& work);

// Options for the engine that is measured: as in a server, all memory of the arena is taken ahead of the requests, as
// other engines take theirs.
EngineOptions warm_options(EngineOptions options);
// Returns when an engine opened with them has done so.
Status wait_until_warm(Engine& engine);

}  // namespace tiercel::cli
