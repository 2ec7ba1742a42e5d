// Moves blocks between the hot arena and the tiers below it, on one background thread that sleeps when idle.
//
//   load    A waiting prompt whose next blocks a tier has: they are read into the cache before it is admitted. A load
//   is
//           a lease like any other, so promises, quotas and what others see in flight need no rule of their own. It
//           commits block for block what was verified and ends at the first block that is not there; what was taken and
//           not filled goes back. It is ended early when its prompt no longer waits.
//   write   A lease that added blocks to the index has ended: the path to them is kept referenced until the first tier
//   has
//           it. At most an eighth of the cache is kept so, nothing that promises need, and nothing that an admission
//           would be refused for as long as its write has not begun.
//   erase   What was forgotten by invalidation leaves the tiers too, as far as it was hot.
//
// Erasing goes before loading, and loading before writing: first what must not be found, then what somebody waits for.
//
// Locks: the cache's mutex is taken before this one's, never the other way round, and no store is called under either.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kv/content_key.h"
#include "tiercel/kv_cache.h"
#include "tiercel/tier_store.h"

namespace tiercel {

using LoadTicket = std::uint64_t;
inline constexpr LoadTicket kNoLoad = 0;

class TierManager {
 public:
  static constexpr std::size_t kBatchBlocks = 8;   // moved by one call of a store
  static constexpr std::size_t kMostLoads = 256;   // waiting; one more is not loaded
  static constexpr std::size_t kMostWrites = 256;  // waiting; one more is not written
  static constexpr std::size_t kWriteShare = 8;    // blocks kept for writes are at most one in so many

  struct Counts {
    std::uint64_t stored_blocks = 0;
    std::uint64_t unstored_blocks = 0;
    std::uint64_t store_errors = 0;
  };

  // `stores`, fastest first, at least one. `cache` owns this and outlives it. May throw std::bad_alloc.
  TierManager(KvCacheState& cache, std::vector<std::shared_ptr<TierStore>> stores);
  TierManager(const TierManager&) = delete;
  TierManager& operator=(const TierManager&) = delete;
  ~TierManager();

  // Starts the thread. Unavailable where the system gives none. Without it, run_one() is called by hand.
  Status start();
  // Ends the thread and everything begun or waiting; nothing is taken up afterwards. Not on the thread itself.
  void stop();
  // Does one piece of work, at most one batch. False: there was none. For the thread, or for tests without it.
  bool run_one();

  // A prompt waits: `tokens` are whole blocks, the first `hot_blocks` are in the cache and end in `hot_key`. Queues a
  // load where a tier has what follows, else returns kNoLoad. Not under the cache's lock.
  LoadTicket expect(std::span<const TokenId> tokens, const AdmitOptions& options, std::size_t hot_blocks,
                    const ContentKey& hot_key);
  // Whether the load is queued or under way.
  bool is_pending(LoadTicket ticket) const;
  void cancel(LoadTicket ticket);

  // Under the cache's lock. `blocks` are a lease's that ends, in order; those in the index are kept for writing.
  void offer(std::span<const BlockId> blocks);
  // Under the cache's lock: gives up the writes that have not begun. True if there were any.
  bool abandon_writes();
  // Under the cache's lock: the block is forgotten on request.
  void forget(const ContentKey& key);

  Counts counts() const;
  std::span<const std::shared_ptr<TierStore>> stores() const { return stores_; }

 private:
  struct Load {
    LoadTicket ticket = kNoLoad;
    std::string salt;
    std::uint64_t adapter_id = 0;
    Retention retention;
    std::vector<TokenId> tokens;  // whole blocks
  };
  struct RunningLoad {
    Load load;
    std::vector<BlockKey> keys;  // of the root and of every block
    Lease lease;
  };
  struct Write {
    std::vector<BlockId> blocks;  // held, in order
    std::size_t kept_blocks = 0;  // of them, by this write alone when it was queued
  };
  struct RunningWrite {
    Write write;
    std::vector<BlockKey> keys;  // of the root and of every block
    std::vector<TokenId> tokens;
    std::size_t done = 0;
  };

  void work();
  bool run_erase();
  bool begin_load();
  void continue_load();
  void end_load();
  bool begin_write();
  void continue_write();
  void end_write();
  // With the cache locked.
  void drop_blocks(const Write& write);
  // How many of the leading keys some tier has.
  std::size_t available(std::span<const BlockKey> keys) const;
  // Each from the first tier that has it.
  void read(std::span<TierRead> reads);

  KvCacheState& cache_;
  const std::vector<std::shared_ptr<TierStore>> stores_;
  std::thread thread_;

  // Of whoever calls run_one().
  std::optional<RunningLoad> load_;
  std::optional<RunningWrite> write_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable arrived_;
  bool stopping_ = false;
  LoadTicket last_ticket_ = kNoLoad;
  LoadTicket running_ = kNoLoad;  // not cancelled
  std::deque<Load> loads_;
  std::deque<Write> writes_;
  std::vector<BlockKey> erases_;
  std::size_t kept_blocks_ = 0;
  Counts counts_;
};

}  // namespace tiercel
