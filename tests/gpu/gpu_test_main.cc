// main() of the tests that need a GPU. Without one it says so and ends with 77, which CTest shows as skipped.
#include <cstdio>

#include <gtest/gtest.h>

#include "device/cuda_devices.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const tiercel::CudaDevices known = tiercel::list_cuda_devices();
  if (known.devices.empty() && !testing::GTEST_FLAG(list_tests)) {
    std::printf("skipped: no GPU here: %s\n", known.note.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
