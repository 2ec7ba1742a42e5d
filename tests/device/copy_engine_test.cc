// The copy engine beside a stream that computes, at every pace that seeds of the emulated GPU have.
#include "device/copy_engine.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include <gtest/gtest.h>

#include "device/device_arena.h"
#include "tests/cuemu/device.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout = {.layers = 5, .kv_heads = 1, .head_dim = 16, .block_tokens = 8, .dtype = DType::BF16};
constexpr std::size_t kBlockBytes = kLayout.block_bytes(), kLayerBytes = kBlockBytes / kLayout.layers, kBlocks = 4;

// Blocks on the GPU and the host, a stream that computes, and one more block of each kind for results.
struct Machine {
  explicit Machine(std::size_t layers_per_event = 2) {
    device.emplace(DeviceArena::reserve(kBlocks + 1, kBlockBytes).value());
    host = PinnedBuffer::allocate((kBlocks + 1) * kBlockBytes, "a test").value();
    computing.emplace(CudaStream::create().value());
    engine.emplace(CopyEngine::open(kLayout, layers_per_event).value());
    std::memset(host.start(), 0, (kBlocks + 1) * kBlockBytes);
    EXPECT_EQ(cudaMemsetAsync(device->start(), 0, (kBlocks + 1) * kBlockBytes, computing->get()), cudaSuccess);
    EXPECT_TRUE(computing->synchronize().ok());
  }

  std::byte* host_block(BlockId id) const { return host.start() + id * kBlockBytes; }
  std::vector<BlockTransfer> transfers() const {
    std::vector<BlockTransfer> all;
    for (BlockId id = 0; id < kBlocks; ++id) all.push_back({device->block(id), host_block(kBlocks - 1 - id)});
    return all;
  }
  // What a kernel of this layer would do: read it from block `id`, and write it to the block for results.
  void compute(BlockId id, std::size_t layer) {
    EXPECT_EQ(cudaMemcpyAsync(device->block(kBlocks) + layer * kLayerBytes, device->block(id) + layer * kLayerBytes,
                              kLayerBytes, cudaMemcpyDeviceToDevice, computing->get()),
              cudaSuccess);
  }
  std::vector<std::byte> results() {
    EXPECT_EQ(cudaMemcpyAsync(host_block(kBlocks), device->block(kBlocks), kBlockBytes, cudaMemcpyDeviceToHost,
                              computing->get()),
              cudaSuccess);
    EXPECT_TRUE(computing->synchronize().ok());
    return {host_block(kBlocks), host_block(kBlocks) + kBlockBytes};
  }
  void fill_host(BlockId id, int value) { std::memset(host_block(id), value, kBlockBytes); }

  std::optional<DeviceArena> device;
  PinnedBuffer host;
  std::optional<CudaStream> computing;
  std::optional<CopyEngine> engine;
};

bool all_are(const std::vector<std::byte>& bytes, int value) {
  return std::ranges::all_of(bytes, [&](std::byte byte) { return byte == static_cast<std::byte>(value); });
}

class CopyEngineTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { cuemu::reset_device({.seed = static_cast<std::uint64_t>(GetParam())}); }
};
INSTANTIATE_TEST_SUITE_P(Seeds, CopyEngineTest, testing::Range(0, 15));

TEST_P(CopyEngineTest, ALayerIsComputedWhenItsKvHasArrived) {
  Machine m;
  for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 7);
  const auto ticket = m.engine->load(m.transfers(), *m.computing);
  ASSERT_TRUE(ticket.ok());
  for (std::size_t layer = 0; layer < kLayout.layers; ++layer) {
    ASSERT_TRUE(ticket->order(*m.computing, layer).ok());
    m.compute(2, layer);
  }
  EXPECT_TRUE(all_are(m.results(), 7));
  EXPECT_TRUE(ticket->arrived().value());
}

// Whoever evicts a block may load another one into it while a kernel given before still reads it.
TEST_P(CopyEngineTest, WhatAKernelStillReadsIsNotOverwritten) {
  Machine m;
  EXPECT_EQ(cudaMemsetAsync(m.device->block(1), 3, kBlockBytes, m.computing->get()), cudaSuccess);
  for (std::size_t layer = 0; layer < kLayout.layers; ++layer) m.compute(1, layer);
  for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 9);
  const auto ticket = m.engine->load(m.transfers(), *m.computing);
  ASSERT_TRUE(ticket.ok());
  ASSERT_TRUE(ticket->finish().ok());
  EXPECT_TRUE(all_are(m.results(), 3));
}

TEST_P(CopyEngineTest, ASaveHasWhatTheKernelsBeforeItWrote) {
  Machine m;
  for (BlockId id = 0; id < kBlocks; ++id) {
    EXPECT_EQ(cudaMemsetAsync(m.device->block(id), 10 + static_cast<int>(id), kBlockBytes, m.computing->get()),
              cudaSuccess);
  }
  const auto ticket = m.engine->save(m.transfers(), *m.computing);
  ASSERT_TRUE(ticket.ok());
  // The blocks are given to others, whose kernels wait for the save.
  ASSERT_TRUE(ticket->order(*m.computing, 0).ok());
  EXPECT_EQ(cudaMemsetAsync(m.device->start(), 1, kBlocks * kBlockBytes, m.computing->get()), cudaSuccess);
  ASSERT_TRUE(ticket->finish().ok());
  for (BlockId id = 0; id < kBlocks; ++id) {
    const std::byte* saved = m.host_block(kBlocks - 1 - id);
    EXPECT_TRUE(all_are({saved, saved + kBlockBytes}, 10 + static_cast<int>(id)));
  }
}

TEST_P(CopyEngineTest, BlocksGoByOneCallForEachEventAndAllPinned) {
  Machine m;
  for (int i = 0; i < 3; ++i) {
    const auto before = cuemu::device_counts();
    const auto ticket = m.engine->load(m.transfers(), *m.computing);
    ASSERT_TRUE(ticket.ok() && ticket->finish().ok());
    const auto after = cuemu::device_counts();
    EXPECT_EQ(after.copy_calls - before.copy_calls, 3);  // layers 0 and 1, 2 and 3, 4
    EXPECT_EQ(after.copies - before.copies, 3 * static_cast<int>(kBlocks));
    EXPECT_EQ(after.pageable_copies, before.pageable_copies);
  }
  const auto none = m.engine->load({}, *m.computing);
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->finish().ok());
}

TEST_P(CopyEngineTest, ATicketsEndWaitsForItsCopies) {
  Machine m;
  for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 7);
  { const auto ticket = m.engine->load(m.transfers(), *m.computing); }
  for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 8);  // the host memory is somebody else's now
  for (std::size_t layer = 0; layer < kLayout.layers; ++layer) m.compute(0, layer);
  EXPECT_TRUE(all_are(m.results(), 7));
}

TEST_P(CopyEngineTest, AFailedCallIsAStatusAndLeavesNothingUnderWay) {
  Machine m;
  for (const char* call : {"cudaEventRecord", "cudaStreamWaitEvent", "cudaMemcpyBatchAsync"}) {
    for (int nth = 1; nth <= 2; ++nth) {
      if (nth == 2 && std::string_view(call) == "cudaStreamWaitEvent") continue;
      for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 7);
      cuemu::fail_call(call, nth, cudaErrorUnknown);
      EXPECT_EQ(m.engine->load(m.transfers(), *m.computing).status().code(), StatusCode::Internal) << call;
      for (BlockId id = 0; id < kBlocks; ++id) m.fill_host(id, 5);  // which nothing copies any more
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      for (std::size_t layer = 0; layer < kLayout.layers; ++layer) m.compute(0, layer);
      for (const std::byte byte : m.results()) ASSERT_NE(byte, std::byte{5}) << call << " " << nth;
    }
  }
  for (const char* call : {"cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"}) {
    cuemu::fail_call(call, 1, cudaErrorMemoryAllocation);
    EXPECT_EQ(CopyEngine::open(kLayout, 1).status().code(), StatusCode::ResourceExhausted);
  }
  const auto ticket = m.engine->load(m.transfers(), *m.computing);
  ASSERT_TRUE(ticket.ok());
  EXPECT_TRUE(ticket->finish().ok());
}

TEST_P(CopyEngineTest, ABrokenGpuIsUnavailable) {
  Machine m;
  cuemu::fail_operation(3, cudaErrorIllegalAddress);
  const auto ticket = m.engine->load(m.transfers(), *m.computing);
  const Status status = ticket.ok() ? ticket->finish() : ticket.status();
  EXPECT_EQ(status.code(), StatusCode::Unavailable);
  EXPECT_NE(status.message().find("cannot use the GPU any more"), std::string::npos);
  EXPECT_EQ(m.engine->save(m.transfers(), *m.computing).status().code(), StatusCode::Unavailable);
}

}  // namespace
}  // namespace tiercel
