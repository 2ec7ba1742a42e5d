// Stands in for CUDA's header of this name: asynchronous copies to shared memory. Each is done at some time between its
// beginning and the wait for it, so that a wait or a barrier that is missing shows.
#pragma once

#include <cstddef>
#include <cstring>

#include "tests/cuemu/device_language.h"

namespace cuemu {
inline void finish(const AsyncCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
  std::memset(static_cast<char*>(copy.to) + (copy.bytes - copy.zeros), 0, copy.zeros);
}
}  // namespace cuemu

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, std::size_t zeros = 0) {
  const cuemu::AsyncCopy copy = {to, from, bytes, zeros, 0};
  if (cuemu::begin_async_copy(copy)) cuemu::finish(copy);
}
inline void __pipeline_commit() { cuemu::commit_async_copies(); }
inline void __pipeline_wait_prior(unsigned groups_left) {
  cuemu::AsyncCopy copy;
  while (cuemu::take_async_copy(groups_left, copy)) cuemu::finish(copy);
}
