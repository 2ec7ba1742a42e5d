// What this process has used, as the system counts it.
#pragma once

#include <pthread.h>

#include <cstddef>

#include "tiercel/stats.h"

namespace tiercel {

// Processor time of the calling thread, or of another one that has not been joined; 0 where the system does not say.
double thread_cpu_s();
double thread_cpu_s(pthread_t thread);

// Keeps a file of the system open, so that asking is cheap. Thread-safe.
class ProcessUsage {
 public:
  ProcessUsage();
  ~ProcessUsage();
  ProcessUsage(const ProcessUsage&) = delete;
  ProcessUsage& operator=(const ProcessUsage&) = delete;

  ProcessStats stats() const;
  std::size_t resident_bytes() const;  // 0 where unknown

 private:
  const int statm_;  // -1: there is none
  const std::size_t page_bytes_;
};

}  // namespace tiercel
