#include "base/cpu_affinity.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tiercel {

Result<CpuAffinity> CpuAffinity::set(std::span<const std::uint32_t> cpus) {
  CpuAffinity affinity;
  if (cpus.empty()) return affinity;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (const std::uint32_t cpu : cpus) {
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &wanted);
  }
  const bool known = sched_getaffinity(0, sizeof affinity.former_, &affinity.former_) == 0;
  cpu_set_t granted;
  CPU_AND(&granted, &wanted, &affinity.former_);
  if (!known || CPU_COUNT(&granted) != CPU_COUNT(&wanted) || sched_setaffinity(0, sizeof wanted, &wanted) != 0) {
    return Status::invalid_argument(fmt::format(
        "cpus is [{}], but this process may not run on all of these; see taskset --pid", fmt::join(cpus, ", ")));
  }
  affinity.changed_ = true;
  return affinity;
}

CpuAffinity::CpuAffinity(CpuAffinity&& other) noexcept
    : changed_(std::exchange(other.changed_, false)), former_(other.former_) {}

CpuAffinity::~CpuAffinity() {
  if (changed_) sched_setaffinity(0, sizeof former_, &former_);
}

std::uint32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace tiercel
