// Memory as the kernels want it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tiercel {

// Aligned to 64 bytes, of values that are none.
struct AlignedFloats {
  explicit AlignedFloats(std::size_t count) : memory(count + 16, std::nanf("")) {
    start = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64 / 4;
  }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  std::vector<float> memory;
  float* start;
};

}  // namespace tiercel
