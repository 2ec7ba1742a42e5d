// Blocks on their way to an emulated GPU, and whoever touches them meanwhile: steps of a model, copies, other loads.
#include "device/device_loads.h"

#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "device/device_block_memory.h"
#include "tests/cuemu/device.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout = {.layers = 5, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .dtype = DType::BF16};
constexpr std::size_t kBlockBytes = kLayout.block_bytes(), kLayerBytes = kBlockBytes / kLayout.layers, kBlocks = 6;

class DeviceLoadsTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    cuemu::reset_device({.seed = static_cast<std::uint64_t>(GetParam())});
    memory = DeviceBlockMemory::reserve(kBlocks, kLayout).value();
    loads = &memory->loads_for_steps();
    computing.emplace(CudaStream::create().value());
    staging = memory->allocate_host(kBlocks * kBlockBytes);
    saved = memory->allocate_host(kBlockBytes);
  }
  // Blocks [first, last), each filled with `value` and its own id.
  std::uint64_t begin(BlockId first, BlockId last, int value) {
    std::vector<BlockId> blocks;
    for (BlockId id = first; id < last; ++id) {
      std::memset(place_of(id), value + static_cast<int>(id), kBlockBytes);
      blocks.push_back(id);
    }
    const auto begun = memory->begin_load(place_of(first), kBlockBytes, blocks);
    EXPECT_TRUE(begun.ok()) << begun.status().to_string();
    return begun.ok() ? *begun : 0;
  }
  std::byte* place_of(BlockId id) const { return staging.get() + id * kBlockBytes; }
  // What a layer's kernel does: reads the layer of a block, which goes to the last block.
  void compute(BlockId id, std::size_t layer) const {
    const std::size_t at = layer * kLayerBytes;
    EXPECT_EQ(cudaMemcpyAsync(memory->block(kBlocks - 1) + at, memory->block(id) + at, kLayerBytes,
                              cudaMemcpyDeviceToDevice, computing->get()),
              cudaSuccess);
  }
  void step(BlockId id) const {
    const std::uint64_t load = loads->newest_to({&id, 1});
    for (std::size_t layer = 0; layer < kLayout.layers; ++layer) {
      EXPECT_TRUE(loads->order(*computing, load, layer).ok());
      compute(id, layer);
    }
    EXPECT_TRUE(computing->synchronize().ok());
  }
  void expect_all(BlockId id, int value) const {
    ASSERT_TRUE(memory->save({&id, 1}, kBlockBytes, saved.get()).ok());
    for (std::size_t i = 0; i < kBlockBytes; ++i) ASSERT_EQ(saved.get()[i], static_cast<std::byte>(value)) << i;
  }

  std::shared_ptr<DeviceBlockMemory> memory;
  DeviceLoads* loads = nullptr;
  std::optional<CudaStream> computing;
  std::shared_ptr<std::byte> staging, saved;  // allocated before: freeing such memory waits for the GPU
};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceLoadsTest, testing::Range(0, 15));

TEST_P(DeviceLoadsTest, AStepHasWhatIsOnItsWay) {
  begin(0, 2, 10);
  begin(2, 4, 20);
  step(1);
  expect_all(kBlocks - 1, 11);
  step(3);
  expect_all(kBlocks - 1, 23);
}

// The step's wait ends with its layer's part.
TEST_P(DeviceLoadsTest, LayersArriveOneByOne) {
  const auto before = cuemu::device_counts();
  begin(0, 4, 10);
  EXPECT_EQ(cuemu::device_counts().copy_calls - before.copy_calls, static_cast<int>(kLayout.layers));
  EXPECT_EQ(DeviceLoads::layers_per_part({.layers = 32}), 4u);
  EXPECT_EQ(DeviceLoads::layers_per_part({.layers = 30}), 3u);
}

TEST_P(DeviceLoadsTest, ABlockIsLoadedAgainWhileItIsOnItsWay) {
  const std::uint64_t first = begin(0, 2, 10);
  const auto other = memory->allocate_host(kBlockBytes);
  std::memset(other.get(), 77, kBlockBytes);
  const BlockId block = 1;
  const auto second = memory->begin_load(other.get(), kBlockBytes, {&block, 1});
  ASSERT_TRUE(second.ok());
  ASSERT_GT(*second, first);
  step(1);
  expect_all(kBlocks - 1, 77);
  step(0);
  expect_all(kBlocks - 1, 10);
}

// A step writes K and V into a block whose load nobody wants any more.
TEST_P(DeviceLoadsTest, WhatAStepWritesStays) {
  begin(0, 3, 10);
  const BlockId block = 2;
  const std::uint64_t load = loads->newest_to({&block, 1});
  for (std::size_t layer = 0; layer < kLayout.layers; ++layer) {
    ASSERT_TRUE(loads->order(*computing, load, layer).ok());
    EXPECT_EQ(cudaMemsetAsync(memory->block(2) + layer * kLayerBytes, 99, kLayerBytes, computing->get()), cudaSuccess);
  }
  ASSERT_TRUE(computing->synchronize().ok());
  ASSERT_TRUE(memory->finish_load(load).ok());
  expect_all(2, 99);
}

TEST_P(DeviceLoadsTest, CopiesHaveWhatIsOnItsWay) {
  begin(0, 2, 10);
  ASSERT_TRUE(memory->copy_leading_tokens(kLayout, 0, 1, kLayout.block_tokens).ok());
  expect_all(1, 10);
  begin(3, 4, 40);
  expect_all(3, 43);
}

// Host memory is free again when the load is finished, and what was forgotten is finished.
TEST_P(DeviceLoadsTest, HostMemoryIsReadUntilTheEnd) {
  for (int round = 0; round < 6; ++round) {
    const std::uint64_t load = begin(0, 4, 10 * round);
    if (round % 2 == 0) step(0);
    ASSERT_TRUE(memory->finish_load(load).ok());
    std::memset(staging.get(), 255, kBlocks * kBlockBytes);
    for (const BlockId id : {0u, 3u}) expect_all(id, 10 * round + static_cast<int>(id));
    const BlockId all[] = {0, 1, 2, 3};
    EXPECT_EQ(loads->newest_to(all), 0u);
    ASSERT_TRUE(memory->finish_load(load).ok());
    ASSERT_TRUE(loads->order(*computing, load, 0).ok());
  }
  EXPECT_TRUE(memory->finish_load(0).ok());
}

// A tier's thread loads while steps go on; the memory ends with loads on their way.
TEST_P(DeviceLoadsTest, StepsAndLoadsAtOnce) {
  begin(4, 5, 0);
  std::thread tier([&] {
    std::uint64_t last = 0;
    for (int round = 0; round < 8; ++round) {
      ASSERT_TRUE(memory->finish_load(last).ok());
      last = begin(0, 2, round);
    }
  });
  for (int round = 0; round < 8; ++round) step(4);
  tier.join();
  expect_all(kBlocks - 1, 4);
  expect_all(1, 8);
  begin(0, 4, 50);
  memory.reset();
}

// Without a model whose steps wait, a load is through when it returns.
TEST_P(DeviceLoadsTest, NobodyWaitsNobodyIsAhead) {
  const auto alone = DeviceBlockMemory::reserve(2, kLayout).value();
  const BlockId block = 1;
  std::memset(staging.get(), 5, kBlockBytes);
  ASSERT_EQ(alone->begin_load(staging.get(), kBlockBytes, {&block, 1}).value(), 0u);
  std::memset(staging.get(), 6, kBlockBytes);
  const auto host = alone->allocate_host(kBlockBytes);
  EXPECT_EQ(cudaMemcpyAsync(host.get(), alone->block(1), kBlockBytes, cudaMemcpyDeviceToHost, computing->get()),
            cudaSuccess);
  ASSERT_TRUE(computing->synchronize().ok());
  EXPECT_EQ(host.get()[9], std::byte{5});
}

// A copy that fails when the step has begun fails the step, and everything after it.
TEST_P(DeviceLoadsTest, ACopyThatFailsLateFailsWhoWaits) {
  cuemu::fail_operation(2, cudaErrorIllegalAddress);
  const BlockId block = 1;
  const auto load = memory->begin_load(staging.get(), kBlockBytes, {&block, 1});
  Status status = load.status();  // at some seeds it fails so soon
  for (std::size_t layer = 0; layer < kLayout.layers && status.ok(); ++layer) {
    status = loads->order(*computing, *load, layer);
  }
  if (status.ok()) status = computing->synchronize();
  EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
  if (load.ok()) {
    EXPECT_EQ(memory->finish_load(*load).code(), StatusCode::Unavailable);
  }
  EXPECT_EQ(memory->save({&block, 1}, kBlockBytes, staging.get()).code(), StatusCode::Unavailable);
  EXPECT_FALSE(memory->begin_load(staging.get(), kBlockBytes, {&block, 1}).ok());
}

}  // namespace
}  // namespace tiercel
