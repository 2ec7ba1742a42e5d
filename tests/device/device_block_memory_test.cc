// KV blocks on an emulated GPU as the cache sees them.
#include "device/device_block_memory.h"

#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout = {.layers = 3, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .dtype = DType::BF16};
constexpr std::size_t kBlockBytes = kLayout.block_bytes(), kBlocks = 6;

class DeviceBlockMemoryTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    cuemu::reset_device({.seed = static_cast<std::uint64_t>(GetParam())});
    memory = DeviceBlockMemory::reserve(kBlocks, kLayout).value();
  }
  // A value for each byte of each block.
  static std::byte value(BlockId block, std::size_t i) { return static_cast<std::byte>(block * 31 + i * 7 + i / 251); }
  void fill(BlockId first, BlockId last) const {
    const auto host = memory->allocate_host((last - first) * kBlockBytes);
    std::vector<BlockId> blocks;
    for (BlockId id = first; id < last; ++id) {
      for (std::size_t i = 0; i < kBlockBytes; ++i) host.get()[blocks.size() * kBlockBytes + i] = value(id, i);
      blocks.push_back(id);
    }
    ASSERT_TRUE(memory->load(host.get(), kBlockBytes, blocks).ok());
  }
  std::vector<std::byte> bytes_of(BlockId block) const {
    const auto host = memory->allocate_host(kBlockBytes);
    EXPECT_TRUE(memory->save({&block, 1}, kBlockBytes, host.get()).ok());
    return {host.get(), host.get() + kBlockBytes};
  }

  std::shared_ptr<DeviceBlockMemory> memory;
};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceBlockMemoryTest, testing::Range(0, 9));

TEST_P(DeviceBlockMemoryTest, WhatWasLoadedIsSaved) {
  fill(0, kBlocks);
  for (const BlockId id : {4u, 0u, 5u}) {
    const auto bytes = bytes_of(id);
    for (std::size_t i = 0; i < kBlockBytes; ++i) ASSERT_EQ(bytes[i], value(id, i)) << id << ", " << i;
  }
}

// When the call returns: a model's stream waits for nobody.
TEST_P(DeviceBlockMemoryTest, LeadingTokensAreCopiedAndNoOthers) {
  const CudaStream model = CudaStream::create().value();
  const auto host = memory->allocate_host(kBlockBytes);
  for (const std::size_t tokens : {1u, 5u, 8u}) {
    fill(0, 2);
    ASSERT_TRUE(memory->copy_leading_tokens(kLayout, 0, 1, tokens).ok());
    ASSERT_EQ(cudaMemcpyAsync(host.get(), memory->block(1), kBlockBytes, cudaMemcpyDeviceToHost, model.get()),
              cudaSuccess);
    ASSERT_TRUE(model.synchronize().ok());
    const std::span<const std::byte> bytes(host.get(), kBlockBytes);
    const std::size_t row_bytes = kLayout.head_stride() * 2, token_bytes = kLayout.head_dim * 2;
    for (std::size_t i = 0; i < kBlockBytes; ++i) {
      const bool copied = i % row_bytes < tokens * token_bytes;
      ASSERT_EQ(bytes[i], value(copied ? 0 : 1, i)) << tokens << " tokens, byte " << i;
    }
  }
}

// As the threads of tiers do it, and a copy-on-write beside them.
TEST_P(DeviceBlockMemoryTest, ThreadsMoveBlocksAtOnce) {
  fill(0, kBlocks);
  const auto turn = [&](BlockId block) {
    const auto host = memory->allocate_host(kBlockBytes);
    for (int round = 0; round < 5; ++round) {
      ASSERT_TRUE(memory->save({&block, 1}, kBlockBytes, host.get()).ok());
      ASSERT_EQ(host.get()[17], value(block, 17));
      std::memset(host.get(), round, 16);
      ASSERT_TRUE(memory->load(host.get(), kBlockBytes, {&block, 1}).ok());
    }
  };
  std::thread first(turn, 0), second(turn, 1), third([&] {
    for (int round = 0; round < 5; ++round) ASSERT_TRUE(memory->copy_leading_tokens(kLayout, 2, 3, 4).ok());
  });
  first.join();
  second.join();
  third.join();
  EXPECT_EQ(bytes_of(0)[3], std::byte{4});
  EXPECT_EQ(bytes_of(3)[0], value(2, 0));
}

}  // namespace
}  // namespace tiercel
