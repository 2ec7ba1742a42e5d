// What one rendering may use, so that a hostile template ends in an error instead of a hang or a huge allocation.
#pragma once

#include <cstddef>

#include "text/jinja_error.h"

namespace tiercel::jinja {

inline constexpr std::size_t kMaxTextBytes = std::size_t{16} << 20;      // of the output, and of any one text
inline constexpr std::size_t kMaxWrittenBytes = std::size_t{64} << 20;   // of all texts made on the way
inline constexpr std::size_t kMaxReadBytes = std::size_t{128} << 20;     // searched and compared
inline constexpr std::size_t kMaxSteps = 1'000'000;
inline constexpr int kMaxDepth = 200;

class Budget {
 public:
  // One for each part of the template evaluated and for each item of a list made or looked at.
  void take_steps(std::size_t count = 1) {
    if (count > steps_) fail("it needs more than 1,000,000 evaluation steps");
    steps_ -= count;
  }
  // Before a text of so many bytes is made.
  void write(std::size_t bytes) {
    if (bytes > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
    if (bytes > written_) fail("it makes more than 64 MiB of texts");
    written_ -= bytes;
  }
  void read(std::size_t bytes) {
    if (bytes > read_) fail("it reads more than 128 MiB of text");
    read_ -= bytes;
  }

 private:
  std::size_t steps_ = kMaxSteps;
  std::size_t written_ = kMaxWrittenBytes;
  std::size_t read_ = kMaxReadBytes;
};

}  // namespace tiercel::jinja
