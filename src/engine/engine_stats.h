// EngineStats, put together from what replicas, their caches and their models know.
#pragma once

#include "engine/replica_set.h"
#include "tiercel/stats.h"

namespace tiercel {

// What EngineOptions::memory_limit_bytes counts besides the hot arenas, of replicas that share their weights.
struct LimitedMemory {
  std::size_t weights_bytes = 0, mapped_weights_bytes = 0;
  std::size_t workspace_bytes = 0;  // of all
  std::size_t memory_tier_bytes = 0;

  std::size_t sum() const { return weights_bytes + mapped_weights_bytes + workspace_bytes + memory_tier_bytes; }
};
LimitedMemory limited_memory(const ModelMemory& model, std::size_t replicas, std::size_t memory_tier_bytes);

// All but `process`, and what of `memory` the options and the system know.
EngineStats collect_stats(const ReplicaSet& replicas, std::size_t memory_tier_bytes);

}  // namespace tiercel
