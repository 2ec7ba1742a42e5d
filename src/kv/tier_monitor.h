// What is known of a tier's store from the operations that were asked of it: whether it is well, how fast it is, what
// became of them. An operation that takes longer than the deadline trips both of the tier's circuit breakers; nobody
// waits for the tier until a probe succeeds.
//
// One operation goes on at a time, told by one thread. Everything may be asked from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "kv/circuit_breaker.h"
#include "kv/transfer_cost.h"

namespace tiercel {

class TierMonitor {
 public:
  struct Counts {
    std::uint64_t loaded_blocks = 0;
    std::uint64_t stored_blocks = 0;
    std::uint64_t unstored_blocks = 0;
    std::uint64_t corrupt_blocks = 0;
    std::uint64_t errors = 0;  // operations that failed
    std::uint64_t late = 0;    // operations that passed the deadline
  };
  struct Health {
    bool reads = true;
    bool writes = true;
    double bytes_per_s = 0;  // of loads, decoded; 0: not measured
  };
  // Until the tier begins with a load, and from then on.
  struct Pace {
    double begin_s = 0;  // infinity where the operation under way is too late
    double block_s = 0;
    std::size_t batch_blocks = 1;
    bool is_measured = false;  // else a guess
  };

  // `store_name` is for the log.
  TierMonitor(std::string store_name, std::size_t block_bytes, double deadline_s, std::function<double()> now_s);

  // Around every call of the store that may take time. `loading_blocks`: 0 where nothing is loaded.
  void begin(std::size_t loading_blocks = 0);
  void end(bool ok, std::size_t loaded_blocks = 0, std::size_t corrupt_blocks = 0);
  // What became of blocks that were to be written; those that were took `seconds`, with their copying.
  void on_stored(std::size_t blocks, double seconds);
  void on_unstored(std::size_t blocks);

  // Whether the store may be asked now. That the operation under way has passed its deadline is noticed by whoever
  // asks.
  bool may_read();
  bool may_write();
  // How long so many blocks take, if nothing else goes on.
  double seconds_to_load(std::size_t blocks) const;
  // How long they will take from now on, as the next that is done; infinity where the operation under way is too late.
  double seconds_until_loaded(std::size_t blocks);
  double seconds_until_written(std::size_t blocks) const;
  // Of a load before which so many blocks are loaded.
  Pace pace(std::size_t blocks_before);
  // How many blocks the next batch of a load has, so that others come to their turn.
  std::size_t batch_blocks() const;
  // The tier was not measured for a while, so that its figures may be wrong.
  bool is_stale() const;

  Counts counts() const;
  Health health() const;

 private:
  // All with mutex_ locked.
  void notice_late(double now_s);  // once
  bool goes_on() const { return began_s_ != 0; }
  bool hangs() const { return late_ && goes_on(); }
  std::size_t next_batch_blocks() const;

  const std::string store_name_;
  const std::size_t block_bytes_;
  const double deadline_s_;
  const std::function<double()> now_s_;

  mutable std::mutex mutex_;  // guards everything below
  CircuitBreaker reads_well_;
  CircuitBreaker writes_well_;
  LoadCost load_cost_;
  LoadCost write_cost_;
  double measured_s_ = 0;           // when load_cost_ was last measured
  double began_s_ = 0;              // of the operation under way; 0: none
  bool late_ = false;               // and it has been noticed
  std::size_t loading_blocks_ = 0;  // of the operation under way
  Counts counts_;
};

}  // namespace tiercel
