// Each defect of defective_kernels.cu, and of the order between streams, must be reported, with its source line.
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/cuemu/device_memory.h"
#include "tests/cuemu/halt_on_race.h"
#include "tests/cuemu/test_kernels.h"

namespace tiercel {
namespace {

using cuemu::Defect;

// "defective_kernels.cu:12" of the line that ends with "// name".
std::string line_of(const std::string& name) {
  std::ifstream file(std::string(TIERCEL_TEST_DATA) + "/../cuemu/defective_kernels.cu");
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.ends_with("  // " + name)) return "defective_kernels[.]cu:" + std::to_string(number);
  }
  ADD_FAILURE() << "no line is marked " << name;
  return "nothing";
}

void run(Defect defect, std::uint64_t seed) {
  cuemu::reset_device({.seed = seed});
  const DeviceMemory<float> values(std::vector<float>(defect == Defect::BlocksShareGlobal ? 128 : 64, 2.0f));
  ASSERT_EQ(cuemu::run_defect(defect, values.data(), nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

class CudaDefects : public testing::Test {
 protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};
using CudaDefectsDeathTest = CudaDefects;

TEST_F(CudaDefectsDeathTest, NoneIsReportedWhereThereIsNone) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) run(Defect::None, seed);
}

TEST_F(CudaDefectsDeathTest, DivergentBarriers) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    EXPECT_DEATH(
        run(Defect::DivergentBarrier, seed),
        "cuemu: block \\(0,0,0\\) thread \\([0-9]+,0,0\\): divergent barrier: .*" + line_of("DivergentBarrier"));
    EXPECT_DEATH(run(Defect::BarrierAfterReturn, seed), "divergent barrier: .*" + line_of("BarrierAfterReturn"));
    EXPECT_DEATH(run(Defect::DifferentBarriers, seed), "divergent barrier: .*" + line_of("DifferentBarriers"));
  }
}

TEST_F(CudaDefectsDeathTest, BadMasks) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    EXPECT_DEATH(run(Defect::MaskWithoutCaller, seed),
                 "thread \\((3|35),0,0\\): bad mask: .*calling lane.*" + line_of("MaskWithoutCaller"));
    EXPECT_DEATH(run(Defect::MaskWithReturnedLane, seed), "bad mask: .*return.*" + line_of("MaskWithReturnedLane"));
    EXPECT_DEATH(run(Defect::LanesDisagree, seed), "bad mask: .*" + line_of("LanesDisagree"));
    EXPECT_DEATH(run(Defect::ReadsLaneOutsideMask, seed),
                 "bad mask: it reads lane 17, .*" + line_of("ReadsLaneOutsideMask"));
    EXPECT_DEATH(run(Defect::MaskBeyondBlock, seed),
                 "bad mask: .*which the block does not have, .*" + line_of("MaskBeyondBlock"));
  }
}

TEST_F(CudaDefectsDeathTest, CopiesThatNobodyWaitsFor) {
#if !defined(__SANITIZE_THREAD__)  // which may find the read first
  EXPECT_DEATH(run(Defect::CopyWithoutWait, 1), "it returned while copies to shared memory were under way");
#endif
}

TEST_F(CudaDefectsDeathTest, UninitialisedSharedMemoryIsNaN) {
  cuemu::reset_device({});
  const DeviceMemory<float> values(std::vector<float>(64, 2.0f));
  ASSERT_EQ(cuemu::run_defect(Defect::UninitialisedShared, values.data(), nullptr), cudaSuccess);
  for (const float value : values.read()) ASSERT_TRUE(std::isnan(value));
}

#if defined(__SANITIZE_ADDRESS__)
TEST_F(CudaDefectsDeathTest, OverflowsUnderAddressSanitizer) {
  for (const auto& [defect, name] :
       {std::pair(Defect::GlobalOverflow, "GlobalOverflow"), std::pair(Defect::SharedOverflow, "SharedOverflow"),
        std::pair(Defect::DynamicSharedOverflow, "DynamicSharedOverflow")}) {
    EXPECT_DEATH(run(defect, 1), "heap-buffer-overflow.*\n(.*\n)*.*defective.*" + line_of(name)) << name;
  }
  EXPECT_DEATH(run(Defect::Misaligned, 1), line_of("Misaligned") + ".*misaligned address");
}
#endif

#if defined(__SANITIZE_THREAD__)
TEST_F(CudaDefectsDeathTest, RacesUnderThreadSanitizer) {
  for (const auto& [defect, name] :
       {std::pair(Defect::MissingBarrier, "MissingBarrier"), std::pair(Defect::MissingWarpSync, "MissingWarpSync"),
        std::pair(Defect::BlocksShareGlobal, "BlocksShareGlobal"),
        std::pair(Defect::CopyWithoutBarrier, "CopyWithoutBarrier")}) {
    EXPECT_DEATH(run(defect, 1), "data race.*\n(.*\n)*.*defective.*" + line_of(name)) << name;
  }
}

// A copy on one stream, a kernel that reads it on another, and no event between.
void leave_out_a_wait() {
  cuemu::reset_device({.seed = 0});
  cudaStream_t first = nullptr, second = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
  const DeviceMemory<int> from(std::vector<int>(64, 1)), to(64);
  cudaMemsetAsync(from.data(), 0, 64 * sizeof(int), first);
  cuemu::run_increment(from.data(), to.data(), 64, second);
}

void leave_out_a_synchronisation() {
  cuemu::reset_device({.seed = 0});
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  void* memory = nullptr;
  ASSERT_EQ(cudaHostAlloc(&memory, 64 * sizeof(int), cudaHostAllocDefault), cudaSuccess);
  const DeviceMemory<int> from(std::vector<int>(64, 1));
  cudaMemcpyAsync(memory, from.data(), 64 * sizeof(int), cudaMemcpyDeviceToHost, stream);
  EXPECT_EQ(static_cast<volatile int*>(memory)[0], 1);
}

TEST_F(CudaDefectsDeathTest, MissingOrderBetweenStreamsUnderThreadSanitizer) {
  EXPECT_DEATH(leave_out_a_wait(), "data race.*\n(.*\n)*.*language_kernels[.]cu");
  EXPECT_DEATH(leave_out_a_synchronisation(), "data race.*\n(.*\n)*.*leave_out_a_synchronisation");
}
#endif

TEST_F(CudaDefectsDeathTest, WhatIsNotGivenBackIsNamed) {
  EXPECT_DEATH(
      {
        cuemu::reset_device({});
        void* memory = nullptr;
        if (cudaMalloc(&memory, 10) == cudaSuccess) cuemu::reset_device({});
      },
      "cuemu: the device was not given back: 1 allocations");
}

}  // namespace
}  // namespace tiercel
