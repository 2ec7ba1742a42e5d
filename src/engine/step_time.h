// Durations as responses and statistics have them.
#pragma once

#include <chrono>

namespace tiercel {

inline double milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace tiercel
