// Ranks on NCCL itself: a thread for each GPU that there is. On a machine without one: that this is said.
#include <algorithm>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "device/cuda_stream.h"
#include "device/device_arena.h"
#include "device/nccl_communicator.h"

namespace tiercel {
namespace {

constexpr std::size_t kCount = 1 << 20, kBytes = kCount * sizeof(float);

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

CommunicatorOptions options_of(int rank, int size) {
  return {.rank = static_cast<std::uint32_t>(rank), .size = static_cast<std::uint32_t>(size)};
}

void fill(const DeviceArena& memory, std::size_t block, float value, const CudaStream& stream) {
  const std::vector<float> values(kCount, value);
  ASSERT_EQ(cudaMemcpyAsync(memory.block(static_cast<BlockId>(block)), values.data(), kBytes, cudaMemcpyHostToDevice,
                            stream.get()),
            cudaSuccess);
}

void expect_all(const std::byte* memory, float value) {
  std::vector<float> values(kCount);
  ASSERT_EQ(cudaMemcpy(values.data(), memory, kBytes, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(std::ranges::count(values, value), static_cast<std::ptrdiff_t>(kCount));
}

void run_rank(int rank, int size, const NcclId& id) {
  ASSERT_EQ(cudaSetDevice(rank), cudaSuccess);
  auto stream = CudaStream::create();
  ASSERT_TRUE(stream.ok()) << stream.status().to_string();
  auto memory = DeviceArena::reserve(static_cast<std::size_t>(size) + 1, kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status().to_string();
  auto opened = open_nccl_communicator(options_of(rank, size), id, *stream);
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  Communicator& communicator = **opened;
  const auto waited = [&](const Status& status) {
    const Status end = status.ok() ? communicator.wait() : status;
    EXPECT_TRUE(end.ok()) << end.to_string();
  };

  fill(*memory, 0, static_cast<float>(rank + 1), *stream);
  waited(communicator.all_reduce_sum(memory->block(0), kCount, Element::F32));
  expect_all(memory->block(0), static_cast<float>(size * (size + 1) / 2));

  fill(*memory, 0, static_cast<float>(rank), *stream);
  waited(communicator.all_gather(memory->block(0), kBytes, memory->block(1)));
  for (int other = 0; other < size; ++other)
    expect_all(memory->block(static_cast<BlockId>(other) + 1), static_cast<float>(other));

  waited(communicator.broadcast(memory->block(0), kBytes, static_cast<std::uint32_t>(size - 1)));
  expect_all(memory->block(0), static_cast<float>(size - 1));

  fill(*memory, 0, static_cast<float>(rank + 10), *stream);
  const auto next = static_cast<std::uint32_t>(rank + 1), before = static_cast<std::uint32_t>(rank - 1);
  if (rank > 0) waited(communicator.receive(memory->block(1), kBytes, before));
  if (rank + 1 < size) waited(communicator.send(memory->block(0), kBytes, next));
  if (rank > 0) expect_all(memory->block(1), static_cast<float>(rank + 9));
  waited(communicator.barrier());
}

TEST(NcclLibrary, WithoutAGpuItSaysSo) {
  if (gpu_count() > 0) GTEST_SKIP() << "there is a GPU";
  const auto stream = CudaStream::create();
  EXPECT_EQ(stream.status().code(), StatusCode::Unavailable) << stream.status().to_string();
  const auto id = create_nccl_id();
  EXPECT_TRUE(id.ok() || id.status().code() == StatusCode::Unavailable) << id.status().to_string();
}

TEST(NcclLibrary, EveryOperationOnEveryGpu) {
  const int size = gpu_count();
  if (size == 0) GTEST_SKIP() << "there is no GPU";
  const auto id = create_nccl_id();
  ASSERT_TRUE(id.ok()) << id.status().to_string();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.emplace_back(run_rank, rank, size, *id);
  for (std::thread& rank : ranks) rank.join();
}

// The other ranks are not there: NCCL waits for them without a hold on the process.
TEST(NcclLibrary, OpeningAloneIsADeadline) {
  if (gpu_count() == 0) GTEST_SKIP() << "there is no GPU";
  auto stream = CudaStream::create();
  ASSERT_TRUE(stream.ok());
  CommunicatorOptions options = options_of(0, 2);
  options.open_timeout_ms = 1000;
  const Status status = open_nccl_communicator(options, create_nccl_id().value(), *stream).status();
  EXPECT_EQ(status.code(), StatusCode::DeadlineExceeded) << status.to_string();
}

}  // namespace
}  // namespace tiercel
