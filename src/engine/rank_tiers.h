// Which tiers an engine of ranks has: rank 0's options say so, and every rank has a store of its own for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/rank_messages.h"
#include "engine/rank_progress.h"
#include "ranks/socket.h"
#include "tiercel/options.h"
#include "tiercel/status.h"
#include "tiercel/tier_store.h"

namespace tiercel {

// Of rank 0, whose blocks have `block_bytes`.
RankTierSettings tier_settings_of(const KvCacheOptions& cache, std::size_t block_bytes);

// At rank 0: the tiers of `cache` become ones of all ranks. links[i] are those to rank i + 1, one for each tier.
Status share_tiers(KvCacheOptions& cache, std::vector<std::vector<Socket>> links,
                   const std::shared_ptr<RankProgress>& progress);

// At another rank: its stores, in the order of rank 0's tiers, each with room for as many blocks. `block_bytes` is that
// of its part. A memory tier needs nothing of `cache`; a disk tier its disk_dir, and stores of one's own as many as
// rank 0 has: where that is missing, in place of the store is the Status that says so.
std::vector<Result<std::shared_ptr<TierStore>>> stores_of_rank(const KvCacheOptions& cache,
                                                               const RankTierSettings& settings,
                                                               std::size_t block_bytes);

}  // namespace tiercel
