#include "base/logging.h"

#include <cstdlib>
#include <memory>

#include <spdlog/sinks/stdout_color_sinks.h>

namespace tiercel {

spdlog::logger& log() {
  // Not registered with spdlog's global registry: an embedding program's own loggers stay untouched.
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>("tiercel", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    const char* wanted = std::getenv("TIERCEL_LOG");
    made->set_level(wanted ? spdlog::level::from_str(wanted) : spdlog::level::warn);
    return made;
  }();
  return *logger;
}

}  // namespace tiercel
