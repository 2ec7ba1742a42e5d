// Ranks on emulated GPUs: a thread, a GPU, a stream and a communicator for each.
#pragma once

#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "device/cuda_stream.h"
#include "device/nccl_communicator.h"
#include "tests/cuemu/device.h"
#include "tests/cuemu/device_memory.h"
#include "tests/nccl_stand_in/nccl_stand_in.h"

namespace tiercel {

inline constexpr std::uint32_t kMostRanks = 8;

struct NcclRank {
  std::uint32_t rank, size;
  CudaStream& stream;
  std::unique_ptr<Communicator> communicator;
  std::barrier<>& all_ranks;

  // In stream order, as kernels before and after an operation are.
  template <class T>
  void fill(const DeviceMemory<T>& memory, const std::vector<T>& values) const {
    EXPECT_EQ(
        cudaMemcpyAsync(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream.get()),
        cudaSuccess);
  }
  template <class T>
  void copy(const DeviceMemory<T>& to, const DeviceMemory<T>& from) const {
    EXPECT_EQ(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyDeviceToDevice, stream.get()),
              cudaSuccess);
  }
};

// The host reads what wait() has promised, with nothing between: the emulated GPU's memory is the host's too.
template <class T>
std::vector<T> look_at(const DeviceMemory<T>& memory, std::size_t count) {
  return {memory.data(), memory.data() + count};
}

inline CommunicatorOptions nccl_options(std::uint32_t rank, std::uint32_t size, std::uint64_t timeout_ms = 60'000,
                                        std::uint64_t open_timeout_ms = 60'000) {
  return {.address = {}, .rank = rank, .size = size, .timeout_ms = timeout_ms, .open_timeout_ms = open_timeout_ms};
}

// Calls work(stream) on a thread for each rank, with its GPU current, and returns when all are through.
inline void run_gpus(std::uint32_t size, const std::function<void(std::uint32_t, CudaStream&)>& work) {
  std::vector<std::thread> threads;
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ASSERT_EQ(cudaSetDevice(static_cast<int>(rank)), cudaSuccess);
      auto stream = CudaStream::create();
      ASSERT_TRUE(stream.ok());
      work(rank, *stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The same with a communicator.
inline void run_nccl_ranks(std::uint32_t size, const std::function<void(NcclRank&)>& work,
                           std::uint64_t timeout_ms = 60'000, std::uint64_t open_timeout_ms = 60'000) {
  const NcclId id = create_nccl_id().value();
  std::barrier all_ranks(static_cast<std::ptrdiff_t>(size));
  run_gpus(size, [&](std::uint32_t rank, CudaStream& stream) {
    auto communicator = open_nccl_communicator(nccl_options(rank, size, timeout_ms, open_timeout_ms), id, stream);
    ASSERT_TRUE(communicator.ok()) << communicator.status().to_string();
    NcclRank self{rank, size, stream, std::move(*communicator), all_ranks};
    work(self);
  });
}

// For each seed new GPUs and a new NCCL; afterwards nothing may be left, nor complained about.
class NcclTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { start_over(static_cast<std::uint64_t>(GetParam())); }
  void TearDown() override {
    EXPECT_EQ(nccl_stand_in::complaints(), std::vector<std::string>());
    EXPECT_EQ(nccl_stand_in::counts().open_communicators, 0);
    start_over(0);
  }
  static void start_over(std::uint64_t seed, std::size_t memory_bytes = cuemu::DeviceOptions().memory_bytes) {
    nccl_stand_in::reset(seed);
    cuemu::reset_device({.seed = seed, .memory_bytes = memory_bytes, .devices = kMostRanks});
  }
};

}  // namespace tiercel
