// Memory of blocks on the emulated GPU, what is known of GPUs, and errors as Status.
#include "device/device_arena.h"

#include <cstring>

#include <cuda_runtime_api.h>

#include <gtest/gtest.h>

#include "device/cuda_devices.h"
#include "device/cuda_status.h"
#include "tests/cuemu/device.h"

namespace tiercel {
namespace {

constexpr std::size_t kMiB = 1024 * 1024;

TEST(DeviceArena, TakesWhatTheModelLeaves) {
  cuemu::reset_device({.memory_bytes = 100 * kMiB});
  void* weights = nullptr;
  ASSERT_EQ(cudaMalloc(&weights, 20 * kMiB), cudaSuccess);
  EXPECT_EQ(device_blocks_that_fit(kMiB, 30 * kMiB, 1.0).value(), 50u);
  EXPECT_EQ(device_blocks_that_fit(kMiB, 30 * kMiB, 0.9).value(), 45u);
  const auto none = device_blocks_that_fit(kMiB, 80 * kMiB, 1.0);
  EXPECT_EQ(none.status().code(), StatusCode::ResourceExhausted);
  EXPECT_NE(none.status().message().find("83886080 are needed for the model"), std::string::npos)
      << none.status().message();
  {
    auto arena = DeviceArena::reserve(50, kMiB);
    ASSERT_TRUE(arena.ok());
    EXPECT_EQ(arena->block(49) - arena->block(0), static_cast<std::ptrdiff_t>(49 * kMiB));
    EXPECT_EQ(cuemu::allocated_bytes(), 70 * kMiB);
    const auto more = DeviceArena::reserve(31, kMiB);
    EXPECT_EQ(more.status().code(), StatusCode::ResourceExhausted);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the error must not surface in a later call";
    const auto overflow = DeviceArena::reserve(std::size_t{1} << 50, std::size_t{1} << 30);
    EXPECT_EQ(overflow.status().code(), StatusCode::ResourceExhausted);
  }
  EXPECT_EQ(cuemu::allocated_bytes(), 20 * kMiB);
  cudaFree(weights);
}

TEST(PinnedBuffer, IsPinnedWhileItLives) {
  cuemu::reset_device({});
  {
    auto buffer = PinnedBuffer::allocate(15000, "a test");
    ASSERT_TRUE(buffer.ok());
    std::memset(buffer->start(), 1, 15000);
    const PinnedBuffer moved = std::move(*buffer);
    EXPECT_EQ(cudaHostRegister(moved.start() + 10000, 16, 0), cudaErrorHostMemoryAlreadyRegistered);
  }
  cuemu::fail_call("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
  EXPECT_EQ(PinnedBuffer::allocate(15000, "a test").status().code(), StatusCode::Unavailable);
  cuemu::reset_device({});  // aborts where anything is left pinned
}

TEST(CudaStatus, SaysWhatFailedAndWhetherItCanGoOn) {
  EXPECT_TRUE(cuda_status(cudaSuccess, "x").ok());
  const Status memory = cuda_status(cudaErrorMemoryAllocation, "allocating it");
  EXPECT_EQ(memory.code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(memory.message(), "allocating it: cudaErrorMemoryAllocation");
  EXPECT_EQ(cuda_status(cudaErrorNoDevice, "x").code(), StatusCode::Unavailable);
  EXPECT_EQ(cuda_status(cudaErrorIllegalAddress, "x").code(), StatusCode::Unavailable);
  EXPECT_EQ(cuda_status(cudaErrorInvalidValue, "x").code(), StatusCode::Internal);
}

TEST(CudaDevices, AreListed) {
  cuemu::reset_device({.memory_bytes = 80 * kMiB, .compute_major = 8});
  const CudaDevices devices = list_cuda_devices();
  ASSERT_EQ(devices.devices.size(), 1u);
  EXPECT_EQ(devices.devices[0].memory_bytes, static_cast<std::int64_t>(80 * kMiB));
  EXPECT_EQ(devices.devices[0].compute_major, 8);
  cuemu::fail_call("cudaGetDeviceProperties", 1, cudaErrorUnknown);
  EXPECT_EQ(list_cuda_devices().devices.size(), 0u);
  cuemu::reset_device({.devices = 0});
  EXPECT_FALSE(list_cuda_devices().note.empty());
  cuemu::reset_device({});
}

}  // namespace
}  // namespace tiercel
