#pragma once

#include <string>

namespace tiercel::cli {

// $TIERCEL_MODEL, else the model that ./quickstart puts into the cache directory: $TIERCEL_CACHE_DIR, or tiercel in
// $XDG_CACHE_HOME or ~/.cache. The file need not exist.
std::string default_model_path();

}  // namespace tiercel::cli
