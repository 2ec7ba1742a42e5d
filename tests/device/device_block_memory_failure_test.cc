// When the CUDA runtime refuses what KV blocks on a GPU need.
#include <cstring>

#include <gtest/gtest.h>

#include "device/device_block_memory.h"
#include "tests/cuemu/device.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout = {.layers = 3, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .dtype = DType::BF16};
constexpr std::size_t kBlockBytes = kLayout.block_bytes();

TEST(DeviceBlockMemory, FailuresComeBackAndNothingIsLost) {
  cuemu::reset_device({.memory_bytes = 3 * kBlockBytes});
  EXPECT_EQ(DeviceBlockMemory::reserve(4, kLayout).status().code(), StatusCode::ResourceExhausted);
  const auto memory = DeviceBlockMemory::reserve(2, kLayout).value();
  const BlockId block = 1;
  cuemu::fail_call("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
  const auto host = memory->allocate_host(kBlockBytes);  // pageable
  ASSERT_NE(host, nullptr);
  std::memset(host.get(), 5, kBlockBytes);
  cuemu::fail_call("cudaMemcpyBatchAsync", 1, cudaErrorInvalidValue);
  EXPECT_FALSE(memory->load(host.get(), kBlockBytes, {&block, 1}).ok());
  EXPECT_TRUE(memory->load(host.get(), kBlockBytes, {&block, 1}).ok());
  cuemu::fail_call("cudaMemcpyBatchAsync", 1, cudaErrorInvalidValue);
  EXPECT_FALSE(memory->copy_leading_tokens(kLayout, 1, 0, 3).ok());
  cuemu::fail_operation(1, cudaErrorIllegalAddress);
  EXPECT_EQ(memory->save({&block, 1}, kBlockBytes, host.get()).code(), StatusCode::Unavailable);
  EXPECT_EQ(memory->copy_leading_tokens(kLayout, 1, 0, 3).code(), StatusCode::Unavailable);
}

}  // namespace
}  // namespace tiercel
