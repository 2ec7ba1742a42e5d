// The cores that the calling thread, and every thread it starts, may run on, for as long as this lives.
#pragma once

#include <sched.h>

#include <cstdint>
#include <span>

#include "tiercel/status.h"

namespace tiercel {

class CpuAffinity {
 public:
  // Nothing changes for an empty list. InvalidArgument where the system has, or grants, none of the cores.
  static Result<CpuAffinity> set(std::span<const std::uint32_t> cpus);

  CpuAffinity(CpuAffinity&& other) noexcept;
  CpuAffinity& operator=(CpuAffinity&&) = delete;
  // Gives the thread its former cores back. On the thread that called set().
  ~CpuAffinity();

 private:
  CpuAffinity() = default;
  bool changed_ = false;
  cpu_set_t former_{};
};

// Cores that this thread may run on, at least 1.
std::uint32_t usable_cores();

}  // namespace tiercel
