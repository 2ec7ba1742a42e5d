#include "engine/endpoint_labels.h"

#include <new>

namespace tiercel {
namespace {

constexpr std::string_view kOther = "other";

}  // namespace

EndpointLabels::EndpointLabels() {
  owned_.reserve(kMostIds);
  owned_.push_back(std::make_unique<std::string>());
  labels_[kNoEndpoint] = owned_.back().get();
  count_ = 1;
}

EndpointId EndpointLabels::find(std::string_view label) const {
  const std::size_t known = count();
  for (std::size_t i = 1; i < known; ++i) {
    if (*labels_[i].load(std::memory_order_relaxed) == label) return static_cast<EndpointId>(i);
  }
  return kNoEndpoint;
}

EndpointId EndpointLabels::id(std::string_view label) {
  if (label.empty()) return kNoEndpoint;
  if (label.size() > kMostBytes) label = kOther;
  if (const EndpointId known = find(label); known != kNoEndpoint) return known;
  const std::lock_guard lock(mutex_);
  const std::size_t known = count_.load(std::memory_order_relaxed);
  if (known > kMostLabels) label = kOther;
  if (const EndpointId id = find(label); id != kNoEndpoint) return id;  // added meanwhile
  try {
    owned_.push_back(std::make_unique<std::string>(label));
  } catch (const std::bad_alloc&) {
    return kNoEndpoint;
  }
  labels_[known].store(owned_.back().get(), std::memory_order_relaxed);
  count_.store(known + 1, std::memory_order_release);
  return static_cast<EndpointId>(known);
}

}  // namespace tiercel
