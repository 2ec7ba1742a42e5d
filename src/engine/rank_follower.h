// A rank but the first: it has a part of the model and KV of its own, and does what rank 0 says.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "engine/rank_tier_server.h"
#include "kv/block_memory.h"
#include "model/model_runner.h"
#include "ranks/communicator.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// Reserves memory for so many blocks, as the model takes them (ModelRunner::compute_over()); null: in host memory,
// which the caller reserves.
using ReserveBlocks = std::function<Result<std::shared_ptr<const BlockMemory>>(std::size_t blocks)>;

// Computes steps on the calling thread until rank 0 ends (Ok), or a rank dies, hangs or fails: then the Status that
// says so, within the communicator's timeout. `layout` is that of this rank's part. Where rank 0 has tiers, `tiers` are
// this rank's; else null. For as many blocks as rank 0 has, `reserve` gives the memory (none: in host memory); what it
// cannot is also a Status, or Unavailable where the system gives no host memory.
Status follow_first_rank(Communicator& communicator, ModelRunner& model, const KvLayout& layout,
                         RankTierServer* tiers = nullptr, const ReserveBlocks& reserve = {});

}  // namespace tiercel
