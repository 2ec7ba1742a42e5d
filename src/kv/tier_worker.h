// One tier: its store, the thread that talks to it, and what was learnt of it (is it well, how fast is it).
//
//   erase   first, and before anything is read again: what must not be found
//   demote  then: somebody waits for the room, which is held until it is written.
//   load    then: somebody waits. Each batch of blocks is a lease of its own, as any request's, so promises, quotas and
//           what others see in flight need no rule of their own. It commits block for block what was verified.
//   write   last. Blocks are held only while a batch of them is copied, so that a store that hangs holds none.
//
// A thread for each tier: a disk that hangs holds up nothing but itself. An operation that takes longer than the
// deadline trips the tier's circuit breaker; nobody waits for the tier until a probe succeeds.
//
// Locks: the cache's mutex is taken before this one's, never the other way round, and no store is called under either.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kv/circuit_breaker.h"
#include "kv/tier_transfer.h"
#include "kv/transfer_cost.h"

namespace tiercel {

class KvCacheState;

struct TierWorkerOptions {
  double deadline_s = 1;
  std::function<double()> now_s;
};

class TierWorker : public std::enable_shared_from_this<TierWorker> {
 public:
  static constexpr std::size_t kBatchBlocks = 8;   // moved by one call of a store
  static constexpr std::size_t kMostLoads = 256;   // waiting; one more is not loaded
  static constexpr std::size_t kMostWrites = 256;  // waiting; one more is not written

  struct Counts {
    std::uint64_t loaded_blocks = 0;
    std::uint64_t stored_blocks = 0;
    std::uint64_t unstored_blocks = 0;
    std::uint64_t corrupt_blocks = 0;
    std::uint64_t errors = 0;  // operations that failed
    std::uint64_t late = 0;    // operations that passed the deadline
  };

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

  // Whether the tier may be asked now: it is well, and everything forgotten was erased.
  bool is_readable();
  // How many of the leading keys it has; 0 where it must not be asked.
  std::size_t leading(std::span<const BlockKey> keys);
  // False: too many wait.
  bool load(const std::shared_ptr<TierLoad>& load);
  // How long the blocks of `load` in this tier will take from now on, from `first_block` on, with what waits before
  // them; infinity where the operation under way is too late.
  double seconds_to_load(const TierLoad& load, std::size_t first_block, std::size_t end_block);
  // As far as is known, if nothing else goes on.
  double seconds_to_load(std::size_t blocks) const;
  // Until this tier begins with `load`, or with a new one, and from then on.
  struct Pace {
    double begin_s = 0;  // infinity where the operation under way is too late
    double block_s = 0;
    std::size_t batch_blocks = 1;
    bool is_measured = false;  // else a guess
  };
  Pace pace(const TierLoad* load = nullptr);
  // The tier was not measured for a while, so that its figures may be wrong.
  bool is_stale() const;

  // Any time, also under the cache's lock.
  void write(const std::shared_ptr<const TierWrite>& write, bool whatever_waits = false);
  // Before all other writes and loads, where it will be through within `most_s`, as far as is known. False: not queued.
  bool write_first(const std::shared_ptr<const TierWrite>& write, double most_s);
  void erase(TierErasure erasure);
  // Everything queued before is written and flushed, or Unavailable with the reason.
  Status flush(double timeout_s);

  Counts counts() const;
  struct Health {
    bool reads = true;
    bool writes = true;
    double bytes_per_s = 0;  // of loads, decoded; 0: not measured
  };
  Health health() const;

 private:
  struct PendingWrite {
    std::shared_ptr<const TierWrite> write;
    std::size_t done = 0;
    bool looked = false;  // whether what is there already was asked for
  };

  void work();
  bool has_work() const;  // with mutex_ locked
  bool run_erase();
  bool run_load(std::deque<std::shared_ptr<TierLoad>>& loads);
  bool run_write(std::deque<PendingWrite>& writes);
  bool run_flush();
  // One batch. True: this load goes on here.
  bool load_batch(TierLoad& load, std::size_t end_block);
  bool load_batch_from_back(TierLoad& load);
  // Reads blocks [first, last) of the load's prompt into the blocks given.
  std::vector<TierRead> read(const TierLoad& load, std::size_t first, std::size_t last, std::span<const BlockId> into);
  // With mutex_ locked.
  std::size_t batch_blocks() const;
  std::size_t blocks_before(const TierLoad* load) const;
  // Copies blocks [first, last) of the write to staging_, as far as they are still cached, and makes their records.
  void copy_batch(const TierWrite& write, std::size_t first, std::size_t last, std::vector<TokenId>& tokens,
                  std::vector<TierRecord>& records);

  // Around every call of the store that may take time. `loading_bytes`: 0 where nothing is loaded.
  void begin_operation(std::size_t loading_bytes);
  void end_operation(bool ok, std::size_t loaded_bytes);
  // With mutex_ locked: that the operation under way has passed its deadline is noticed, once.
  void notice_late(double now_s);
  // With mutex_ locked: it has, and goes on.
  bool hangs() const { return late_ && began_s_ != 0; }

  KvCacheState& cache_;
  const TierId tier_;
  const std::shared_ptr<TierStore> store_;
  const TierWorkerOptions options_;
  const std::size_t capacity_bytes_;  // of the store; 0: not known
  const std::function<void(std::shared_ptr<TierLoad>)> hand_over_;
  std::thread thread_;
  std::vector<std::byte> staging_;  // of the thread: a batch being written

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable arrived_;
  std::condition_variable done_;
  bool stopping_ = false;
  bool running_ = false;                              // the thread has not ended
  std::deque<std::shared_ptr<TierLoad>> loads_;       // the first one may be under way
  std::deque<std::shared_ptr<TierLoad>> prefetches_;  // the same
  std::deque<PendingWrite> demotions_;
  std::deque<PendingWrite> writes_;
  std::vector<TierErasure> erasures_;  // those that failed come last
  bool erasing_ = false;               // one that did not
  std::uint64_t flushes_asked_ = 0, flushes_done_ = 0;
  Status flush_status_;
  CircuitBreaker reads_well_;
  CircuitBreaker writes_well_;
  LoadCost cost_;
  LoadCost write_cost_;
  double measured_s_ = 0;          // when cost_ was last measured
  double began_s_ = 0;             // of the operation under way; 0: none
  bool late_ = false;              // and it has been noticed
  std::size_t loading_bytes_ = 0;  // of the operation under way
  Counts counts_;
};

}  // namespace tiercel
