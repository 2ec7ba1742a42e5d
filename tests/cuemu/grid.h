// Runs a kernel on the CPU: every CUDA thread is a fiber, blocks run one after another. At each barrier or warp
// operation a thread drawn by the seed goes on, so a schedule can be repeated.
//
// Stricter than a device where the programming model leaves something open: a barrier that not all threads of the block
// reach, also because some have returned, is a defect; a warp operation whose mask names a lane that has returned or
// never was is one too; shuffles and votes order no memory, only __syncwarp() does; __activemask() may be the calling
// lane alone. A defect prints one line that begins with "cuemu:" and names block, thread and source line, and aborts.
//
// For ThreadSanitizer the threads of a block are ordered by barriers and __syncwarp() alone, and successive blocks not
// at all. Shared memory is allocated for each block and filled with 0xff bytes (NaN as a float, -1 as an integer):
// AddressSanitizer knows its ends, and what a block reads there before writing it looks wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "tests/cuemu/vector_types.h"

namespace cuemu {

struct LaunchShape {
  dim3 grid, block;
  std::size_t dynamic_shared_bytes = 0;
  std::uint64_t seed = 0;
};

// Calls `kernel` once for each thread of the grid. The whole run follows what the caller did before, and the caller
// what follows it. One kernel at a time in the process: callers take turns.
void run_kernel(const LaunchShape& shape, const std::function<void()>& kernel);

// What follows is called from kernels, through the device language of <cuda_runtime.h>.

struct ThreadPlace {
  uint3 thread, block;
  dim3 block_size, grid_size;
  unsigned lane = 0;
};
extern const ThreadPlace* place;  // of the running thread

enum class Barrier { Plain, Count, And, Or };
int block_barrier(Barrier kind, int predicate, const std::source_location& where);

// All lanes of the mask meet; what each gets depends on the operation.
enum class WarpOperation {
  Sync,     // nothing
  Shuffle,  // the value of lane `source`, its own where that is none of 0 to 31
  Ballot,   // the lanes whose value is not 0
  Match,    // the lanes that have its own value
};
std::uint64_t warp_operation(WarpOperation operation, unsigned mask, std::uint64_t value, int source,
                             const std::source_location& where);

// The variable that `where` declares, the same for all threads of a block.
void* shared_variable(std::size_t bytes, const std::source_location& where);
void* dynamic_shared_memory();

// What is named after __shared__ in a .cu file (see shared_memory.cmake).
template <class T>
T& shared(const std::source_location& where = std::source_location::current()) {
  return *static_cast<T*>(shared_variable(sizeof(T), where));
}
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_shared_memory());
}

void thread_fence();

// Copies to shared memory that a thread has begun (cp.async). The seed draws whether one is done at once or when the
// thread waits for it: nothing may rely on either.
struct AsyncCopy {
  void* to = nullptr;
  const void* from = nullptr;
  std::size_t bytes = 0, zeros = 0;  // zeros: of these, at the end, that are not read but filled with zeros
  unsigned group = 0;                // commits before it
};
bool begin_async_copy(const AsyncCopy& copy);  // true: the caller is to do it at once
void commit_async_copies();
// Whether there is a copy left that must be done before all but the last `groups_left` commits are; the oldest is in
// `copy` then, and taken off.
bool take_async_copy(unsigned groups_left, AsyncCopy& copy);

}  // namespace cuemu
