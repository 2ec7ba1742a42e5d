// The labels of endpoints (Request::endpoint) and their numbers: of an engine, whatever replica a request goes to.
//
// Thread-safety: any. Only the first request of a label takes a lock or allocates.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace tiercel {

// Position of an endpoint in the statistics; the first is all requests together.
using EndpointId = std::uint8_t;
inline constexpr EndpointId kNoEndpoint = 0;

class EndpointLabels {
 public:
  static constexpr std::size_t kMostLabels = 16;            // requests with others are "other"
  static constexpr std::size_t kMostBytes = 64;             // of a label; a longer one is "other"
  static constexpr std::size_t kMostIds = kMostLabels + 2;  // all requests, labels, "other"

  EndpointLabels();

  // kNoEndpoint for an empty label, and where there is no memory for a new one.
  EndpointId id(std::string_view label);
  // So many ids are in use, from 0 on.
  std::size_t count() const { return count_.load(std::memory_order_acquire); }
  const std::string& label(EndpointId id) const { return *labels_[id].load(std::memory_order_relaxed); }

 private:
  EndpointId find(std::string_view label) const;

  std::mutex mutex_;                                 // of those who add a label
  std::vector<std::unique_ptr<std::string>> owned_;  // by it
  std::array<std::atomic<const std::string*>, kMostIds> labels_{};
  std::atomic<std::size_t> count_ = 0;
};

}  // namespace tiercel
