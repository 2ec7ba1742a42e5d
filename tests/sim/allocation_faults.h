// Memory that runs out at a chosen allocation. Heeded by the operator new of sim_fault_test; in other programs of this
// folder allocations never fail.
#pragma once

#include <cstdint>

namespace tiercel::sim {

struct AllocationFaults {
  std::uint64_t allocations_left = 0;  // of this thread until one fails; 0: none does
  bool fired = false;
};
inline thread_local AllocationFaults allocation_faults;

// While it lives, allocations of this thread do not fail: what the test does inside a call of the cache.
class WithoutFaults {
 public:
  WithoutFaults() : kept_(allocation_faults.allocations_left) { allocation_faults.allocations_left = 0; }
  WithoutFaults(const WithoutFaults&) = delete;
  WithoutFaults& operator=(const WithoutFaults&) = delete;
  ~WithoutFaults() { allocation_faults.allocations_left = kept_; }

 private:
  const std::uint64_t kept_;
};

}  // namespace tiercel::sim
