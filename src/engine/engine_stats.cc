#include "engine/engine_stats.h"

#include <algorithm>

#include "base/step_profile.h"

namespace tiercel {
namespace {

// What tiers of one medium moved.
IoStats io_of(const std::vector<KvTierStats>& tiers, TierMedium medium) {
  IoStats io;
  for (const KvTierStats& tier : tiers) {
    if (tier.medium != medium) continue;
    io.read_bytes += tier.store.read_bytes;
    io.read_blocks += tier.store.read_blocks;
    io.written_bytes += tier.store.written_bytes;
    io.written_blocks += tier.store.written_blocks;
    io.errors += tier.store.errors;
  }
  return io;
}

// The stores are shared: what a store itself counts is that of all caches.
void add(std::vector<KvTierStats>& sum, const std::vector<KvTierStats>& tiers) {
  if (sum.empty()) {
    sum = tiers;
    return;
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i].store = tiers[i].store;  // the latest
    sum[i].matched_tokens += tiers[i].matched_tokens;
    sum[i].loaded_blocks += tiers[i].loaded_blocks;
    sum[i].stored_blocks += tiers[i].stored_blocks;
    sum[i].errors += tiers[i].errors;
    sum[i].late += tiers[i].late;
    sum[i].reads_available &= tiers[i].reads_available;
    sum[i].writes_available &= tiers[i].writes_available;
    sum[i].load_bytes_per_s = std::max(sum[i].load_bytes_per_s, tiers[i].load_bytes_per_s);
  }
}

void add(std::vector<PartTime>& sum, const std::vector<PartTime>& parts) {
  for (const PartTime& part : parts) {
    const auto known = std::ranges::find(sum, part.name, &PartTime::name);
    if (known == sum.end()) {
      sum.push_back(part);
    } else {
      known->seconds += part.seconds;
      known->bound_s += part.bound_s;
    }
  }
}

}  // namespace

LimitedMemory limited_memory(const ModelMemory& model, std::size_t replicas, std::size_t memory_tier_bytes) {
  return {.weights_bytes = model.packed_bytes,
          .mapped_weights_bytes = model.mapped_bytes,
          .workspace_bytes = replicas * model.workspace_bytes,
          .memory_tier_bytes = memory_tier_bytes};
}

EngineStats collect_stats(const ReplicaSet& replicas, std::size_t memory_tier_bytes) {
  std::vector<const StatsRecorder*> recorders;
  for (const auto& replica : replicas.replicas()) recorders.push_back(&replica->stats());
  EngineStats stats = StatsRecorder::snapshot(recorders);
  MemoryStats& memory = stats.memory;
  for (std::size_t i = 0; i < replicas.size(); ++i) {
    Replica& replica = replicas.replica(i);
    const KvCacheStats cache = replica.cache().stats();
    stats.evicted_blocks += cache.evicted_blocks;
    stats.prefetched_useful_blocks += cache.prefetched_useful_blocks;
    stats.prefetched_wasted_blocks += cache.prefetched_wasted_blocks;
    add(stats.tiers, cache.tiers);
    if (const StepProfile* profile = replica.model().profile()) add(stats.profile, profile->parts());
    ReplicaStats& own = stats.replicas[i];
    own.kv_capacity_bytes = cache.capacity_blocks * cache.block_bytes;
    own.kv_leased_bytes = cache.leased_blocks * cache.block_bytes;
    own.kv_cached_bytes = cache.cached_blocks * cache.block_bytes;
    own.available = replica.is_available();
    memory.kv_capacity_bytes += own.kv_capacity_bytes;
    memory.kv_leased_bytes += own.kv_leased_bytes;
    memory.kv_cached_bytes += own.kv_cached_bytes;
    memory.kv_free_bytes += cache.free_blocks * cache.block_bytes;
    memory.kv_metadata_bytes += cache.metadata_bytes;
  }
  stats.disk = io_of(stats.tiers, TierMedium::Disk);
  stats.network = io_of(stats.tiers, TierMedium::Network);
  const LimitedMemory limited =
      limited_memory(replicas.replica(0).model().memory(), replicas.size(), memory_tier_bytes);
  memory.limited_bytes = memory.kv_capacity_bytes + limited.sum();
  memory.weights_bytes = limited.weights_bytes;
  memory.mapped_weights_bytes = limited.mapped_weights_bytes;
  memory.workspace_bytes = limited.workspace_bytes;
  return stats;
}

}  // namespace tiercel
