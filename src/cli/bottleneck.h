// What bounds a row of a report, and which option to change: from the report alone.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/check_report.h"

namespace tiercel::cli {

// What a request of the phase spent, on average: waiting for a place, for a tier, on its prompt, on its answer.
std::vector<std::pair<Bottleneck, double>> times_ms(const PhaseRecord& phase);

// What bounds the metric with this key, likely.
Bottleneck bottleneck_of(const CheckReport& report, std::string_view key);

// "threads (now 1 of 2 cores): 2": the option to change where `bottleneck` bounds that metric, or that none helps.
std::string advice_for(const CheckReport& report, std::string_view key, Bottleneck bottleneck);

}  // namespace tiercel::cli
