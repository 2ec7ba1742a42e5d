// Memory that runs out at a chosen allocation. Heeded by the operator new of sim_fault_test; in other programs of this
// folder allocations never fail.
#pragma once

#include <cstdint>

namespace tiercel::sim {

struct AllocationFaults {
  std::uint64_t allocations_left = 0;  // of this thread until one fails; 0: none does
  bool last = false;                   // no more memory from then on, else that one alone fails
  bool fired = false;
};
inline thread_local AllocationFaults allocation_faults;

// While it lives, allocations of this thread do not fail: what the test does inside a call of the cache.
class WithoutFaults {
 public:
  WithoutFaults() : kept_(allocation_faults) { allocation_faults = {}; }
  WithoutFaults(const WithoutFaults&) = delete;
  WithoutFaults& operator=(const WithoutFaults&) = delete;
  ~WithoutFaults() { allocation_faults = kept_; }

 private:
  const AllocationFaults kept_;
};

}  // namespace tiercel::sim
