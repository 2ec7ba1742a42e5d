// One tier: its store, the thread that talks to it, and what waits for it.
//
//   erase   first, and before anything is read again: what must not be found
//   demote  then: somebody waits for the room, which is held until it is written.
//   load    then: somebody waits (TierLoader).
//   write   last (TierWriteBatch).
//
// A thread for each tier: a disk that hangs holds up nothing but itself (TierMonitor).
//
// Locks: the cache's mutex is taken before this one's, and this one's before the monitor's. No store is called under
// any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "kv/erasure_queue.h"
#include "kv/tier_loader.h"
#include "kv/tier_monitor.h"
#include "kv/tier_transfer.h"
#include "kv/tier_write_batch.h"

namespace tiercel {

class KvCacheState;

struct TierWorkerOptions {
  double deadline_s = 1;
  std::function<double()> now_s;
};

class TierWorker : public std::enable_shared_from_this<TierWorker> {
 public:
  static constexpr std::size_t kMostLoads = 256;   // waiting; one more is not loaded
  static constexpr std::size_t kMostWrites = 256;  // waiting; one more is not written

  // `cache` owns this through its TierManager. `hand_over` takes a load whose part here is done.
  TierWorker(KvCacheState& cache, TierId tier, std::shared_ptr<TierStore> store, TierWorkerOptions options,
             std::function<void(std::shared_ptr<TierLoad>)> hand_over);
  TierWorker(const TierWorker&) = delete;
  TierWorker& operator=(const TierWorker&) = delete;
  ~TierWorker();

  // Starts the thread. Unavailable where the system gives none. Without it, run_one() is called by hand.
  Status start();
  // Ends what waits; nothing is taken up afterwards. Waits until the deadline for an operation under way; what hangs
  // longer is left to itself, with all it touches kept alive. Not on the thread itself.
  void stop();
  // Does one piece of work, at most one batch. False: there was none.
  bool run_one();

  TierStore& store() const { return *store_; }
  TierMonitor& monitor() { return monitor_; }
  const TierMonitor& monitor() const { return monitor_; }

  // Whether the tier may be asked now: it is well, and everything forgotten was erased.
  bool is_readable();
  // How many of the leading keys it has; 0 where it must not be asked.
  std::size_t leading(std::span<const BlockKey> keys);
  // False: too many wait.
  bool load(const std::shared_ptr<TierLoad>& load);
  // How long the blocks of `load` in this tier will take from now on, from `first_block` on, with what waits before
  // them; infinity where the operation under way is too late.
  double seconds_to_load(const TierLoad& load, std::size_t first_block, std::size_t end_block);
  // Until this tier begins with `load`, or with a new one, and from then on.
  TierMonitor::Pace pace(const TierLoad* load = nullptr);

  // Any time, also under the cache's lock.
  void write(const std::shared_ptr<const TierWrite>& write, bool whatever_waits = false);
  // Before all other writes and loads, where it will be through within `most_s`, as far as is known. False: not queued.
  bool write_first(const std::shared_ptr<const TierWrite>& write, double most_s);
  void erase(TierErasure erasure);
  // Everything queued before is written and flushed, or Unavailable with the reason.
  Status flush(double timeout_s);

 private:
  struct PendingWrite {
    std::shared_ptr<const TierWrite> write;
    std::size_t done = 0;
    bool looked = false;  // whether what is there already was asked for
  };

  void work();
  bool run_erase();
  bool run_load(std::deque<std::shared_ptr<TierLoad>>& loads);
  bool run_write(std::deque<PendingWrite>& writes);
  bool run_flush();
  // With mutex_ locked.
  bool has_work();
  bool may_erase() { return erasures_.has_next(/*retry=*/false) || (!erasures_.is_empty() && monitor_.may_write()); }
  std::size_t blocks_before(const TierLoad* load) const;

  KvCacheState& cache_;
  const std::shared_ptr<TierStore> store_;
  const TierWorkerOptions options_;
  const std::size_t capacity_bytes_;  // of the store; 0: not known
  const std::function<void(std::shared_ptr<TierLoad>)> hand_over_;
  TierMonitor monitor_;
  TierLoader loader_;      // of the thread
  TierWriteBatch copied_;  // the same
  std::thread thread_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable arrived_;
  std::condition_variable done_;
  bool stopping_ = false;
  bool running_ = false;                              // the thread has not ended
  std::deque<std::shared_ptr<TierLoad>> loads_;       // the first one may be under way
  std::deque<std::shared_ptr<TierLoad>> prefetches_;  // the same
  std::deque<PendingWrite> demotions_;
  std::deque<PendingWrite> writes_;
  ErasureQueue erasures_;
  std::uint64_t flushes_asked_ = 0, flushes_done_ = 0;
  Status flush_status_;
};

}  // namespace tiercel
