#pragma once

#include <vector>

namespace tiercel::cli {

// Nearest rank: the least value that `share` of all do not exceed. 0 where there is none.
double percentile(std::vector<double> values, double share);

}  // namespace tiercel::cli
