// A memory tier above a disk tier whose file system is simulated: it loses power, fails, fills up, is slow and hangs.
// It outlives the caches that have it one after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "tests/sim/checked_store.h"
#include "tests/tier/faulty_file_system.h"
#include "tiercel/disk_tier.h"

namespace tiercel::sim {

class SimulatedTiers {
 public:
  static constexpr std::size_t kMemory = 0, kDisk = 1;  // as a cache's tiers
  static constexpr double kDeadline_s = 1;

  SimulatedTiers(std::mt19937_64& random, bool keys_collide);

  double now_s = 1000;
  // Called within operations of the file system, now and then.
  std::function<void()> meanwhile = {};

  // New stores on what the disk has. Nothing fails until draw_faults().
  std::vector<std::shared_ptr<TierStore>> make_stores();
  CheckedStore& store(std::size_t tier) { return *stores_[tier]; }
  CheckedStore& disk() { return *stores_[kDisk]; }

  void draw_faults();
  void end_faults();
  bool has_faults() const { return has_faults_; }

  enum class End { Kill, PowerLoss };
  // The disk as it will be found: decided now, or within one of the operations that follow.
  void snapshot(End how);
  void snapshot_later(End how, std::uint64_t operations);
  bool has_snapshot() const { return snapshot_ != nullptr; }
  // The disk is the snapshot, or stays as it is where there is none.
  void restart();
  // Whether the disk has what a failed sync left out: no later process can know.
  bool has_given_up() const { return files_->has_given_up(); }
  // Changes bytes of a segment. False: there is none.
  bool damage();

  bool is_small() const { return is_small_; }
  std::size_t capacity_bytes() const { return options_.capacity_bytes; }
  std::size_t file_bytes() const;

 private:
  void before(FileOperation operation);
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  std::mt19937_64& random_;
  std::shared_ptr<FaultyFileSystem> files_ = std::make_shared<FaultyFileSystem>();
  std::shared_ptr<FaultyFileSystem> snapshot_;
  std::uint64_t snapshot_in_ = 0;  // operations; 0: none is awaited
  End snapshot_of_ = End::Kill;
  const bool is_small_;
  DiskTierOptions options_;
  MemoryTierOptions memory_options_;
  const bool keys_collide_;
  StoreHistory memory_history_, disk_history_, snapshot_history_;
  std::vector<std::shared_ptr<CheckedStore>> stores_;
  bool has_faults_ = false;
  bool hangs_ = false;
  bool is_within_ = false;  // an operation, so that meanwhile() does not begin another
};

}  // namespace tiercel::sim
