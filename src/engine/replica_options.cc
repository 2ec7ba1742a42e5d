#include "engine/replica_options.h"

#include <algorithm>

#include "base/cpu_affinity.h"
#include "base/cpu_topology.h"

namespace tiercel {

KvCacheOptions cache_of_replica(KvCacheOptions cache, std::size_t replicas) {
  cache.capacity_bytes /= replicas;
  cache.prefault_bytes /= replicas;
  // 0 and SIZE_MAX: none that holds for every tenant.
  if (cache.tenant_quota_bytes != SIZE_MAX) cache.tenant_quota_bytes /= replicas;
  return cache;
}

std::vector<ReplicaThreads> threads_of_replicas(const EngineOptions& options) {
  if (options.replicas == 1) return {{.threads = options.threads ? options.threads : usable_cores()}};
  const auto cores = divide_cores(locate_cores(options.cpus), options.replicas);
  std::vector<ReplicaThreads> all;
  for (std::uint32_t i = 0; i < options.replicas; ++i) {
    // The first ones have one more where they do not divide evenly.
    const std::uint32_t given = (options.threads + options.replicas - 1 - i) / options.replicas;
    const auto threads = options.threads ? std::max(1u, given) : static_cast<std::uint32_t>(cores[i].size());
    all.push_back({.cpus = cores[i], .threads = threads});
  }
  return all;
}

}  // namespace tiercel
