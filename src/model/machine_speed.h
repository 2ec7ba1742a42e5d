// What this machine computes and reads at most, by all threads of a team at once; measured in some tens of
// milliseconds.
#pragma once

#include <algorithm>
#include <array>

#include "base/thread_team.h"
#include "kernels/product_peak.h"

namespace tiercel {

class MachineSpeed {
 public:
  explicit MachineSpeed(ThreadTeam& team);

  // The least time for so many multiplications of this kind while so many bytes come from memory.
  double least_s(kernels::Products products, double multiplications, double bytes) const {
    return std::max(multiplications / products_s_[static_cast<std::size_t>(products)], bytes / read_bytes_s_);
  }
  double least_s(double bytes) const { return bytes / read_bytes_s_; }

 private:
  std::array<double, 4> products_s_ = {};  // a second; infinite where the processor has them not
  double read_bytes_s_ = 0;
};

}  // namespace tiercel
