// The library's log: one spdlog logger named "tiercel" that writes to standard error. Warnings and errors by default;
// TIERCEL_LOG=trace|debug|info|warning|error|off changes that. Standard output belongs to the program.
#pragma once

#include <spdlog/spdlog.h>

namespace tiercel {

spdlog::logger& log();

}  // namespace tiercel
