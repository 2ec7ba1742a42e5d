// Which options tiercel tune tries, and with which values.
#pragma once

#include <cstddef>
#include <vector>

#include "cli/tune_search.h"

namespace tiercel::cli {

// Defaults first, then values around those that the search begins with; in the order of what they usually gain. With
// `is_alone` those only that matter to a request that no other runs beside.
std::vector<TuneDimension> tune_dimensions(const EngineOptions& start, std::size_t cores, bool is_alone);

}  // namespace tiercel::cli
