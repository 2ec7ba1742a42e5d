// Where the time of a step on a GPU goes (base/step_profile.h): an event on its stream wherever another part begins.
//
// Not thread-safe.
#pragma once

#include <utility>
#include <vector>

#include "base/step_profile.h"
#include "device/cuda_stream.h"
#include "tiercel/status.h"

namespace tiercel {

class DeviceStepProfile {
 public:
  StepProfile& profile() { return profile_; }

  // A step begins: the host's time is Copy's until divide().
  void begin() {
    outer_ = profile_.enter(StepPart::Copy);
    marks_ = 0;
  }
  // What the stream is given from now on belongs to `part`.
  Status enter(StepPart part, const CudaStream& stream);
  // The stream has come to the last enter(), or the step has failed: the time since begin() goes to the parts by what
  // they took on the stream; what came after the last enter() stays Copy's.
  Status divide();

 private:
  StepProfile profile_;
  StepPart outer_ = StepPart::Answer;
  std::vector<std::pair<StepPart, CudaEvent>> events_;  // kept for the next steps
  std::size_t marks_ = 0;                               // of this step
  std::vector<StepProfile::Portion> portions_;
};

}  // namespace tiercel
