// Where the time of an engine's steps goes, part by part. Every moment belongs to exactly one part, so the parts add up
// to the time since the profile began.
//
// The thread that runs steps writes; parts() may be called by any.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "tiercel/stats.h"

namespace tiercel {

enum class StepPart : std::uint8_t {
  Idle,      // nothing to compute
  Schedule,  // arrivals, admission (which holds the cached prefix), the choice of a step
  Cache,     // blocks for new tokens, commits
  Embed,
  Norm,
  Qkv,
  Rope,  // and appending K and V
  Attention,
  AttentionOutput,
  GateUp,
  Activation,
  Down,
  Head,
  Exchange,  // with other ranks
  Copy,      // between the host and a GPU: what a step is told and gives back, and what is waited for
  Sample,
  Answer,  // text, callbacks, endings
};
inline constexpr std::size_t kStepParts = static_cast<std::size_t>(StepPart::Answer) + 1;

class StepProfile {
 public:
  // From now on time belongs to `part`; returns what it belonged to. `bound_s` is the least that the machine allows for
  // the work that begins.
  StepPart enter(StepPart part, double bound_s = 0);
  // What of the time since the last enter() belongs to other parts: who works beside this thread knows it. What they do
  // not come to stays with the part that was entered; where they come to more, each has as much less.
  struct Portion {
    StepPart part;
    double seconds;
  };
  void divide(std::span<const Portion> portions);
  // What is written until now can be read: before an answer is given, and after a step.
  void publish();
  std::vector<PartTime> parts() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Time {
    double seconds = 0, bound_s = 0;
  };
  std::array<Time, kStepParts> times_ = {}, published_ = {};
  StepPart current_ = StepPart::Idle;
  Clock::time_point since_ = Clock::now();
  mutable std::mutex mutex_;  // of published_
};

// The time of its life belongs to a part, but for what others take within. Does nothing where there is no profile.
class PartTimer {
 public:
  PartTimer(StepProfile* profile, StepPart part, double bound_s = 0)
      : profile_(profile), outer_(profile ? profile->enter(part, bound_s) : part) {}
  ~PartTimer() {
    if (profile_) profile_->enter(outer_);
  }
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;

 private:
  StepProfile* const profile_;
  const StepPart outer_;
};

}  // namespace tiercel
