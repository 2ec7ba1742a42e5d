#include "engine/rank_tiers.h"

#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "engine/ranked_store.h"
#include "tiercel/disk_tier.h"

namespace tiercel {

RankTierSettings tier_settings_of(const KvCacheOptions& cache, std::size_t block_bytes) {
  if (!cache.prefix_reuse) return {};  // nothing to keep
  return {.block_bytes = block_bytes,
          .memory_bytes = cache.memory_tier_bytes,
          .disk_capacity_bytes = cache.disk_dir.empty() ? 0 : cache.disk_capacity_bytes,
          .own_stores = static_cast<std::uint32_t>(cache.tiers.size()),
          .memory_codec = cache.memory_tier_codec,
          .disk_codec = cache.disk_codec};
}

Status share_tiers(KvCacheOptions& cache, std::vector<std::vector<Socket>> links,
                   const std::shared_ptr<RankProgress>& progress) {
  const RankTierSettings settings = tier_settings_of(cache, 1);
  std::vector<std::shared_ptr<TierStore>> shared;
  for (auto& store : stores_of_rank(cache, settings, 1)) {
    if (!store.ok()) return store.status();
    std::vector<Socket> of_tier;
    for (auto& of_rank : links) of_tier.push_back(std::move(of_rank[shared.size()]));
    shared.push_back(std::make_shared<RankedStore>(*std::move(store), std::move(of_tier), progress));
  }
  cache.tiers = std::move(shared);
  cache.memory_tier_bytes = 0;
  cache.disk_dir.clear();
  return {};
}

std::vector<Result<std::shared_ptr<TierStore>>> stores_of_rank(const KvCacheOptions& cache,
                                                               const RankTierSettings& settings,
                                                               std::size_t block_bytes) {
  const double share = static_cast<double>(block_bytes) / static_cast<double>(settings.block_bytes);
  const auto share_of = [&](std::uint64_t bytes) {
    return share == 1 ? static_cast<std::size_t>(bytes)
                      : static_cast<std::size_t>(std::ceil(static_cast<double>(bytes) * share));
  };
  std::vector<Result<std::shared_ptr<TierStore>>> stores;
  if (settings.memory_bytes > 0) {
    stores.push_back(memory_tier({.capacity_bytes = share_of(settings.memory_bytes), .codec = settings.memory_codec}));
  }
  if (settings.disk_capacity_bytes > 0) {
    if (cache.disk_dir.empty()) {
      stores.push_back(Status::invalid_argument(
          "cache.disk_dir is empty, and rank 0 has one; give each rank a directory of its own (--cache-dir)"));
    } else {
      DiskTierOptions disk{.directory = cache.disk_dir,
                           .capacity_bytes = share_of(settings.disk_capacity_bytes),
                           .codec = settings.disk_codec};
      stores.push_back(disk_tier(disk));
    }
  }
  for (std::size_t i = 0; i < settings.own_stores; ++i) {
    if (i < cache.tiers.size() && cache.tiers[i] != nullptr) {
      stores.push_back(cache.tiers[i]);
    } else {
      stores.push_back(Status::invalid_argument(
          fmt::format("cache.tiers has {} stores, and rank 0's has {}; give each rank as many of its own",
                      cache.tiers.size(), settings.own_stores)));
    }
  }
  return stores;
}

}  // namespace tiercel
