// Device memory of a test: allocated, filled and read back through the runtime.
#pragma once

#include <cstddef>
#include <vector>

#include <cuda_runtime_api.h>

#include <gtest/gtest.h>

namespace tiercel {

template <class T>
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t count) : count_(count) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, count * sizeof(T)), cudaSuccess);
    memory_ = static_cast<T*>(memory);
  }
  explicit DeviceMemory(const std::vector<T>& values) : DeviceMemory(values.size()) {
    EXPECT_EQ(cudaMemcpy(memory_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceMemory() { cudaFree(memory_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  T* data() const { return memory_; }
  std::size_t size() const { return count_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), memory_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  T* memory_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace tiercel
