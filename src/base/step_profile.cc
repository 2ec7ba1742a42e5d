#include "base/step_profile.h"

#include <utility>

namespace tiercel {
namespace {

constexpr const char* kNames[kStepParts] = {
    "idle",    "schedule",   "cache", "embed", "norm",     "qkv",  "rope",   "attention", "attention_output",
    "gate_up", "activation", "down",  "head",  "exchange", "copy", "sample", "answer"};

}  // namespace

StepPart StepProfile::enter(StepPart part, double bound_s) {
  const auto now = Clock::now();
  times_[static_cast<std::size_t>(current_)].seconds += std::chrono::duration<double>(now - since_).count();
  times_[static_cast<std::size_t>(part)].bound_s += bound_s;
  since_ = now;
  return std::exchange(current_, part);
}

void StepProfile::divide(std::span<const Portion> portions) {
  const auto now = Clock::now();
  const double elapsed_s = std::chrono::duration<double>(now - std::exchange(since_, now)).count();
  double sum_s = 0;
  for (const Portion& portion : portions) sum_s += portion.seconds;
  const double scale = sum_s > elapsed_s ? elapsed_s / sum_s : 1;
  for (const Portion& portion : portions)
    times_[static_cast<std::size_t>(portion.part)].seconds += scale * portion.seconds;
  times_[static_cast<std::size_t>(current_)].seconds += elapsed_s - scale * sum_s;
}

void StepProfile::publish() {
  const std::lock_guard lock(mutex_);
  published_ = times_;
}

std::vector<PartTime> StepProfile::parts() const {
  std::vector<PartTime> parts;
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < kStepParts; ++i) {
    parts.push_back({.name = kNames[i], .seconds = published_[i].seconds, .bound_s = published_[i].bound_s});
  }
  return parts;
}

}  // namespace tiercel
