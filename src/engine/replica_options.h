// What each replica has of what the options say of all together (EngineOptions::replicas).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tiercel/options.h"

namespace tiercel {

// An even part of capacity, prefault and tenant quota. `tiers` are as they are.
KvCacheOptions cache_of_replica(KvCacheOptions cache, std::size_t replicas);

struct ReplicaThreads {
  std::vector<std::uint32_t> cpus = {};  // empty: wherever the calling thread may run
  std::uint32_t threads = 1;
};
// Of each. One alone has everything; several have even parts of the threads, and cores of their own that are near each
// other.
std::vector<ReplicaThreads> threads_of_replicas(const EngineOptions& options);

}  // namespace tiercel
