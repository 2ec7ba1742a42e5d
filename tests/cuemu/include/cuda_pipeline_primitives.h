// Stands in for CUDA's header of this name: asynchronous copies to shared memory. They are done when a thread waits for
// them, and seen by others after the next barrier, so that a wait or a barrier that is missing shows.
#pragma once

#include <cstddef>
#include <cstring>

#include "tests/cuemu/device_language.h"

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, std::size_t zeros = 0) {
  cuemu::begin_async_copy({to, from, bytes, zeros, 0});
}
inline void __pipeline_commit() { cuemu::commit_async_copies(); }
inline void __pipeline_wait_prior(unsigned groups_left) {
  cuemu::AsyncCopy copy;
  while (cuemu::take_async_copy(groups_left, copy)) {
    std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
    std::memset(static_cast<char*>(copy.to) + (copy.bytes - copy.zeros), 0, copy.zeros);
  }
}
