// A rank but the first: it has a part of the model and KV of its own, and does what rank 0 says.
#pragma once

#include "engine/rank_tier_server.h"
#include "model/model_runner.h"
#include "ranks/communicator.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// Computes steps on the calling thread until rank 0 ends (Ok), or a rank dies, hangs or fails: then the Status that
// says so, within the communicator's timeout. `layout` is that of this rank's part. Unavailable also where the system
// gives no memory for as many blocks as rank 0 has. Where rank 0 has tiers, `tiers` are this rank's; else null.
Status follow_first_rank(Communicator& communicator, ModelRunner& model, const KvLayout& layout,
                         RankTierServer* tiers = nullptr);

}  // namespace tiercel
