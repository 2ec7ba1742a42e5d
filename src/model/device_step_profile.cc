#include "model/device_step_profile.h"

namespace tiercel {

Status DeviceStepProfile::enter(StepPart part, const CudaStream& stream) {
  if (marks_ > 0 && events_[marks_ - 1].first == part) return {};
  if (marks_ == events_.size()) {
    auto event = CudaEvent::create_timed();
    if (!event.ok()) return event.status();
    events_.emplace_back(part, *std::move(event));
  }
  events_[marks_].first = part;
  return events_[marks_++].second.record(stream);
}

Status DeviceStepProfile::divide() {
  portions_.clear();
  Status status;
  for (std::size_t i = 1; i < marks_ && status.ok(); ++i) {
    const auto seconds = events_[i].second.seconds_since(events_[i - 1].second);
    status = seconds.status();
    if (status.ok()) portions_.push_back({.part = events_[i - 1].first, .seconds = *seconds});
  }
  profile_.divide(portions_);
  profile_.enter(outer_);
  return status;
}

}  // namespace tiercel
