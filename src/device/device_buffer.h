// Memory for one purpose, owned: on the current GPU, and on the host where copy engines reach it. Both are move-only.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include "tiercel/status.h"

namespace tiercel {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;  // none
  // `what` it is for stands in messages. ResourceExhausted where the GPU's memory does not suffice.
  static Result<DeviceBuffer> allocate(std::size_t bytes, std::string_view what);
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : start_(std::exchange(other.start_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(start_, other.start_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* start() const { return start_; }  // device memory, at a multiple of 256 bytes
  std::size_t bytes() const { return bytes_; }

 private:
  DeviceBuffer(std::byte* start, std::size_t bytes) : start_(start), bytes_(bytes) {}
  std::byte* start_ = nullptr;
  std::size_t bytes_ = 0;
};

class PinnedBuffer {
 public:
  PinnedBuffer() = default;  // none
  // Unavailable where the system gives no such memory (limits of the container, for example).
  static Result<PinnedBuffer> allocate(std::size_t bytes, std::string_view what);
  PinnedBuffer(PinnedBuffer&& other) noexcept : start_(std::exchange(other.start_, nullptr)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(start_, other.start_);
    return *this;
  }
  ~PinnedBuffer();

  std::byte* start() const { return start_; }

 private:
  explicit PinnedBuffer(std::byte* start) : start_(start) {}
  std::byte* start_ = nullptr;
};

}  // namespace tiercel
