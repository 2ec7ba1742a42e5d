// Moves blocks between the hot arena and the tiers below it: decides what, and leaves how to a worker for each tier.
//
//   load      A waiting prompt whose next blocks tiers have. They are loaded where that takes less time than computing
//             them, by what both have cost until now; the prompt waits only as long as that holds.
//   split     Where both at once take less: the prompt waits no longer, is computed from its beginning and loaded from
//             its end. Where the two will meet is worked out anew before each step, so a wrong guess costs a batch.
//   write     A lease has ended whose blocks are worth it (WriteChoice): the path to them is written to every tier,
//             unless it is evicted first; nothing waits for that. What a slower tier gave is written to the faster
//             ones.
//   demote    A sequence gives its room to another and will go on: its path is written at once, to the fastest tier.
//   prefetch  A tenant asked for a document after which it has asked for a certain other one before: that one is
//             loaded, if there is nothing else to do, into blocks that hold nothing.
//   erase     What is invalidated leaves the tiers too. Until it has, nothing is read from them.
//
// Locks: the cache's mutex is taken before this one's, and this one's before a worker's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kv/successor_table.h"
#include "kv/tier_transfer.h"
#include "kv/tier_worker.h"
#include "kv/transfer_cost.h"

namespace tiercel {

class TierManager {
 public:
  // `stores`, fastest first, at least one and at most kMostTiers. `cache` owns this and outlives it. May throw
  // std::bad_alloc.
  TierManager(KvCacheState& cache, const std::vector<std::shared_ptr<TierStore>>& stores,
              const TierWorkerOptions& options);
  TierManager(const TierManager&) = delete;
  TierManager& operator=(const TierManager&) = delete;

  // Starts the workers' threads. Without it, run_one() is called by hand.
  Status start();
  void stop();
  bool run_one();

  // A prompt waits: `tokens` are whole blocks, the first `hot_blocks` are in the cache and end in `hot_key` (the root's
  // where there are none). Queues a load where tiers have what follows and it pays, else returns null. Not under the
  // cache's lock.
  std::shared_ptr<TierLoad> expect(std::span<const TokenId> tokens, const AdmitOptions& options, std::size_t hot_blocks,
                                   const ContentKey& hot_key);
  // Whether the load goes on and is worth waiting for.
  bool is_pending(const std::shared_ptr<TierLoad>& load);
  void cancel(const std::shared_ptr<TierLoad>& load);
  // Under the cache's lock. A lease takes over the load of its prompt and computes from block `computed_blocks` on:
  // what is left is loaded from the back. False: it does not split, or nothing is left.
  bool load_from_back(const std::shared_ptr<TierLoad>& load, std::size_t computed_blocks);
  // Under the cache's lock. Of such a load: up to which block it pays to compute, from `computed_blocks` on.
  std::size_t end_of_computing(const TierLoad& load, std::size_t computed_blocks);
  // KvCache::report_prefill()
  void computed(std::size_t tokens, std::size_t position, double seconds);

  // Under the cache's lock. `blocks` are a lease's and in the index, parents first: to be written to the tiers before
  // `end`.
  void offer(std::span<const BlockId> blocks, std::size_t end = kMostTiers);
  // Under the cache's lock. `blocks` are in the index, parents first, and held. Writes them to the first tier that can
  // take them, so soon that this and loading them takes less than computing them; nothing where none can.
  TierDemotion demote(std::span<const BlockId> blocks);
  // Writes everything that is cached and may be kept to the durable tiers, blocks of running requests too. Takes the
  // cache's lock.
  Status flush(double timeout_s);
  // Under the cache's lock.
  void erase(const TierErasure& erasure);

  std::size_t tiers() const { return workers_.size(); }
  TierWorker& worker(std::size_t tier) const { return *workers_[tier]; }

 private:
  struct Plan {
    std::size_t hot_blocks = 0;
    std::vector<BlockKey> keys;  // of the last hot block (or the root), and of every block behind it
    std::vector<TierLoad::Part> parts;
    std::size_t found_blocks = 0;  // in the cache and in tiers
  };

  // Computing up to `block`, and reading what is behind it meanwhile, takes least.
  struct Meeting {
    std::size_t block = 0;
    double seconds = 0;
  };

  Plan look_up(std::span<const TokenId> tokens, std::size_t hot_blocks, const ContentKey& hot_key);
  std::shared_ptr<TierLoad> make_load(std::span<const TokenId> tokens, const AdmitOptions& options, Plan plan) const;
  // Under the cache's lock. May throw std::bad_alloc.
  std::shared_ptr<const TierWrite> make_write(std::span<const BlockId> blocks) const;
  bool queue(const std::shared_ptr<TierLoad>& load);
  void hand_over(std::shared_ptr<TierLoad> load);
  double seconds_to_compute(std::size_t first_block, std::size_t end_block) const;
  double seconds_to_load(const TierLoad& load);
  // Blocks from `computed` on are computed; those from `first` on are read, those from `reading` on are being read.
  Meeting meeting(const TierMonitor::Pace& pace, std::size_t computed, std::size_t reading, std::size_t first) const;
  // What a split of the part that is loaded next takes, and computing what is behind it.
  double seconds_to_split(const TierLoad& load, std::size_t part, std::size_t first_block);
  void learn(std::span<const TokenId> tokens, const PrefixScope& scope, const Plan& plan);
  void prefetch(const Document& document);

  KvCacheState& cache_;
  const std::function<double()> now_s_;
  std::vector<std::shared_ptr<TierWorker>> workers_;

  mutable std::mutex mutex_;  // guards everything below
  PrefillCost prefill_cost_;
  SuccessorTable successors_;
};

}  // namespace tiercel
