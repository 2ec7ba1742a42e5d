// The language of kernels, under many schedules.
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/cuemu/device_memory.h"
#include "tests/cuemu/test_kernels.h"

namespace tiercel {
namespace {

TEST(CudaEmulator, IndicesBarriersWarpOperationsAndAtomics) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    cuemu::reset_device({.seed = seed});
    const dim3 grid(3, 2, 2), block(8, 4, 2);
    const int threads = 12 * 64;
    DeviceMemory<int> indices(threads), reversed(threads), barriers(64 * 3);
    DeviceMemory<unsigned> lanes(64 * 16);
    DeviceMemory<unsigned long long> sums(std::vector<unsigned long long>{0, 0, ~0ull, 0, 0, 0, 0, 0});
    ASSERT_EQ(cuemu::run_language({indices.data(), reversed.data(), lanes.data(), barriers.data(), sums.data()}, grid,
                                  block, nullptr),
              cudaSuccess);
    const auto i = indices.read(), r = reversed.read(), b = barriers.read();
    for (int t = 0; t < threads; ++t) {
      ASSERT_EQ(i[t], t);
      ASSERT_EQ(r[t], t / 64 * 64 + 63 - t % 64);
    }
    for (int t = 0; t < 64; ++t) {
      ASSERT_EQ(b[3 * t], 22);
      ASSERT_EQ(b[3 * t + 1], 1);
      ASSERT_EQ(b[3 * t + 2], 0);
    }
    const auto s = sums.read();
    EXPECT_EQ(s[0], 768u);
    EXPECT_EQ(s[1], 767u);
    EXPECT_EQ(s[2], 0u);
    float half_sum;
    std::memcpy(&half_sum, &s[3], 4);
    EXPECT_EQ(half_sum, 384.0f);
    EXPECT_EQ(s[4], 0xffffffffu);
    EXPECT_EQ(static_cast<int>(s[5]), -2 * 768);
    EXPECT_EQ(s[6], 3u * 768);
    EXPECT_EQ(s[7], 7u);

    const auto l = lanes.read();
    for (unsigned t = 0; t < 64; ++t) {
      const unsigned lane = t % 32;
      const unsigned* got = &l[16 * t];
      const unsigned expected[16] = {5,
                                     lane / 8 * 8 + 1,
                                     lane < 3 ? lane : lane - 3,
                                     lane % 16 < 3 ? lane : lane - 3,
                                     lane > 28 ? lane : lane + 3,
                                     lane % 4 > 0 ? lane : lane + 3,
                                     lane ^ 16u,
                                     lane ^ 1u,
                                     0x22222222u,
                                     1,
                                     0,
                                     0xffu << lane / 8 * 8,
                                     lane < 16 ? 0xaaaau : 20,
                                     0xffffffffu,
                                     3,
                                     1};
      for (int k = 0; k < 16; ++k)
        ASSERT_EQ(got[k], expected[k]) << "lane " << lane << " operation " << k << " seed " << seed;
    }
  }
}

TEST(CudaEmulator, DynamicSharedMemory) {
  cuemu::reset_device({.seed = 4});
  std::vector<int> values(300);
  std::iota(values.begin(), values.end(), 5);
  const DeviceMemory<int> from(values), to(300);
  ASSERT_EQ(cuemu::run_reverse(from.data(), to.data(), 300, nullptr), cudaSuccess);
  const auto got = to.read();
  for (int i = 0; i < 300; ++i) ASSERT_EQ(got[i], 304 - i);
}

TEST(CudaEmulator, VectorLoads) {
  cuemu::reset_device({});
  std::vector<float> values(128);
  std::iota(values.begin(), values.end(), 0.0f);
  const DeviceMemory<float> from(values), to(128);
  ASSERT_EQ(cuemu::run_vector_roots(from.data(), to.data(), 128, nullptr), cudaSuccess);
  const auto got = to.read();
  for (int i = 0; i < 128; ++i) ASSERT_EQ(got[i], std::sqrt(static_cast<float>(i)));
}

TEST(CudaEmulator, SchedulesDifferBySeedAndRepeat) {
  std::vector<unsigned> last;
  for (int round = 0; round < 2; ++round) {
    std::vector<unsigned> seen;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      cuemu::reset_device({.seed = seed});
      const DeviceMemory<unsigned> block(1);
      ASSERT_EQ(cuemu::run_last_block(9, block.data(), nullptr), cudaSuccess);
      seen.push_back(block.read()[0]);
    }
    if (round == 1) {
      EXPECT_EQ(seen, last);
    }
    last = seen;
  }
  EXPECT_NE(std::vector<unsigned>(10, last[0]), last);
}

}  // namespace
}  // namespace tiercel
