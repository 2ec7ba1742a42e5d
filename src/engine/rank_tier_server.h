// The tiers of a rank but the first: a store for each tier that rank 0 has, with this rank's part of every block, and a
// thread that does with it what rank 0 asks (ranked_store.h), beside the steps.
//
// A request about blocks waits until so much is carried out here as it says (rank_progress.h). What rank 0
// asks one tier comes one after the other, so a store that hangs keeps no other waiting.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kv/block_memory.h"
#include "ranks/socket.h"
#include "tiercel/status.h"
#include "tiercel/tier_store.h"
#include "tiercel/types.h"

namespace tiercel {

class RankTierServer {
 public:
  // stores[i] is asked over links[i]; where it is none, because of what its status says, rank 0 is told that when it
  // opens the tier. Blocks of `layout`, of what `fingerprint` names; both are this rank's. May throw std::system_error.
  RankTierServer(std::vector<Result<std::shared_ptr<TierStore>>> stores, std::vector<Socket> links,
                 const KvLayout& layout, const Fingerprint& fingerprint);
  ~RankTierServer() { close(); }
  RankTierServer(const RankTierServer&) = delete;
  RankTierServer& operator=(const RankTierServer&) = delete;

  // Where blocks are from now on. Once, before the first carried_out(). Unavailable: the system gives no memory.
  Status set_memory(const std::shared_ptr<const BlockMemory>& memory);
  // One more of what rank 0 numbers is carried out.
  void carried_out();
  // Why a store did not open; Ok where none was asked to, or all did.
  Status opened() const;
  // Gives the stores back. Waits a while for what is under way; a store that hangs longer is left behind, with all it
  // touches kept alive. Idempotent.
  void close();

 private:
  struct Shared;
  class Worker;

  const std::shared_ptr<Shared> shared_;
  std::vector<std::shared_ptr<Worker>> workers_;
};

}  // namespace tiercel
