// Where the time of a row of tiercel bench went, part by part, beside what the machine allows.
#pragma once

#include <string>
#include <vector>

#include "cli/report.h"
#include "tiercel/stats.h"

namespace tiercel::cli {

// What was added to each part from `before` to `after`.
std::vector<PartTime> spent_between(const std::vector<PartTime>& before, const std::vector<PartTime>& after);

// {"qkv": {"seconds": .., "bound_s": ..}, ...}
Json to_json(const std::vector<PartTime>& parts);

// A line for each part that took time, with its kernel where it is a linear layer.
std::string profile_table(const std::vector<PartTime>& parts, const EngineInfo& info);

}  // namespace tiercel::cli
