// In the place of the emulator's controls, for tests that run on a real GPU: there is nothing to draw and nothing to
// reset, and nobody counts. What fails on demand is not here, and so neither are tests that need it.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

namespace cuemu {

struct DeviceOptions {
  std::uint64_t seed = 0;
};
inline void reset_device(const DeviceOptions&) {}

struct DeviceCounts {
  int launches = 0;
  int copies = 0;
};
inline DeviceCounts device_counts() { return {}; }

}  // namespace cuemu
