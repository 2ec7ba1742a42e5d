// A progress bar: one line on standard error, shown only where that is a terminal.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string_view>

#include <fmt/format.h>

namespace tiercel::cli {

// Gone when it is destroyed.
class ProgressBar {
 public:
  ProgressBar() : shown_(isatty(STDERR_FILENO) != 0) {}
  ~ProgressBar() {
    if (shown_ && percent_ >= 0) fmt::print(stderr, "\r\033[K");
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(std::string_view work, double share) {
    const int percent = static_cast<int>(100 * share);
    if (!shown_ || percent == percent_) return;
    percent_ = percent;
    constexpr int kCells = 30;
    const int filled = percent * kCells / 100;
    fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {:3} %", work, "", filled, "", kCells - filled, percent);
    std::fflush(stderr);
  }

 private:
  const bool shown_;
  int percent_ = -1;
};

}  // namespace tiercel::cli
