// The operator new of sim_fault_test.
#include "tests/sim/allocation_faults.h"

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

bool is_to_fail(tiercel::sim::AllocationFaults& faults) {
  if (faults.fired && faults.last) return true;
  if (faults.allocations_left == 0 || --faults.allocations_left > 0) return false;
  return faults.fired = true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (is_to_fail(tiercel::sim::allocation_faults)) throw std::bad_alloc();
  void* memory = alignment == 0 ? std::malloc(bytes == 0 ? 1 : bytes)
                                : std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
