#include "kv/tier_monitor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/logging.h"
#include "kv/tier_transfer.h"

namespace tiercel {
namespace {

constexpr double kNever_s = std::numeric_limits<double>::infinity();
// How long a tier's figures are trusted while nobody loads from it because of them.
constexpr double kStaleAfter_s = 5;
// How long a batch may take, as far as is known.
constexpr double kBatch_s = 0.02;

}  // namespace

TierMonitor::TierMonitor(std::string store_name, std::size_t block_bytes, double deadline_s,
                         std::function<double()> now_s)
    : store_name_(std::move(store_name)),
      block_bytes_(block_bytes),
      deadline_s_(deadline_s),
      now_s_(std::move(now_s)) {}

// ---- What happens

void TierMonitor::begin(std::size_t loading_blocks) {
  const std::lock_guard lock(mutex_);
  began_s_ = now_s_();
  loading_blocks_ = loading_blocks;
  late_ = false;
  (loading_blocks > 0 ? reads_well_ : writes_well_).on_begin(began_s_);
}

void TierMonitor::end(bool ok, std::size_t loaded_blocks, std::size_t corrupt_blocks) {
  const std::lock_guard lock(mutex_);
  const double now = now_s_();
  notice_late(now);
  CircuitBreaker& breaker = loading_blocks_ > 0 ? reads_well_ : writes_well_;
  if (!ok) {
    ++counts_.errors;
    breaker.on_failure(now);
  } else if (!late_) {
    breaker.on_success();
  }
  if (loaded_blocks > 0) {
    load_cost_.measured(loaded_blocks * block_bytes_, now - began_s_);
    measured_s_ = now;
  }
  counts_.loaded_blocks += loaded_blocks;
  counts_.corrupt_blocks += corrupt_blocks;
  began_s_ = 0;
  loading_blocks_ = 0;
}

void TierMonitor::notice_late(double now_s) {
  if (!goes_on() || late_ || now_s - began_s_ <= deadline_s_) return;
  late_ = true;
  ++counts_.late;
  reads_well_.on_late(now_s);
  writes_well_.on_late(now_s);
  log().warn("the tier '{}' took more than {} s for one operation; it is not asked for a while", store_name_,
             deadline_s_);
}

void TierMonitor::on_stored(std::size_t blocks, double seconds) {
  if (blocks == 0) return;
  const std::lock_guard lock(mutex_);
  counts_.stored_blocks += blocks;
  write_cost_.measured(blocks * block_bytes_, seconds);
}

void TierMonitor::on_unstored(std::size_t blocks) {
  const std::lock_guard lock(mutex_);
  counts_.unstored_blocks += blocks;
}

// ---- Whether it is well

// A breaker that would try again knows nothing of the operation that tripped it.

bool TierMonitor::may_read() {
  const std::lock_guard lock(mutex_);
  const double now = now_s_();
  notice_late(now);
  return !hangs() && reads_well_.allows(now);
}

bool TierMonitor::may_write() {
  const std::lock_guard lock(mutex_);
  const double now = now_s_();
  notice_late(now);
  return !hangs() && writes_well_.allows(now);
}

TierMonitor::Health TierMonitor::health() const {
  const std::lock_guard lock(mutex_);
  const bool is_late = goes_on() && now_s_() - began_s_ > deadline_s_;
  return {.reads = reads_well_.is_closed() && !is_late,
          .writes = writes_well_.is_closed() && !is_late,
          .bytes_per_s = load_cost_.is_known() ? load_cost_.bytes_per_s() : 0};
}

TierMonitor::Counts TierMonitor::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

// ---- How fast it is

double TierMonitor::seconds_to_load(std::size_t blocks) const {
  const std::lock_guard lock(mutex_);
  return load_cost_.seconds_for(blocks * block_bytes_);
}

double TierMonitor::seconds_until_loaded(std::size_t blocks) {
  const std::lock_guard lock(mutex_);
  const double now = now_s_();
  notice_late(now);
  if (hangs()) return kNever_s;
  const double elapsed = goes_on() ? now - began_s_ : 0;
  const double loading_s = load_cost_.seconds_for(blocks * block_bytes_);
  if (loading_blocks_ == 0) return elapsed + loading_s;  // what goes on may take as long again
  // No faster than what is under way has been until now.
  return std::max(loading_s, elapsed * static_cast<double>(blocks) / static_cast<double>(loading_blocks_));
}

double TierMonitor::seconds_until_written(std::size_t blocks) const {
  const std::lock_guard lock(mutex_);
  const double elapsed = goes_on() ? now_s_() - began_s_ : 0;  // what goes on may take as long again
  return elapsed + write_cost_.seconds_for(blocks * block_bytes_);
}

TierMonitor::Pace TierMonitor::pace(std::size_t blocks_before) {
  const std::lock_guard lock(mutex_);
  const double now = now_s_();
  notice_late(now);
  Pace pace{.block_s = load_cost_.seconds_for(block_bytes_),
            .batch_blocks = next_batch_blocks(),
            .is_measured = load_cost_.is_known()};
  if (goes_on()) {
    const double elapsed = now - began_s_;
    pace.begin_s = elapsed;  // what is not known may take as long again
    if (loading_blocks_ > 0) {
      // What is late by some time may take that time again.
      pace.begin_s = std::abs(load_cost_.seconds_for(loading_blocks_ * block_bytes_) - elapsed);
      pace.block_s = std::max(pace.block_s, elapsed / static_cast<double>(loading_blocks_));
    }
    if (hangs()) pace.begin_s = kNever_s;
  }
  pace.begin_s += static_cast<double>(blocks_before) * pace.block_s;
  return pace;
}

std::size_t TierMonitor::batch_blocks() const {
  const std::lock_guard lock(mutex_);
  return next_batch_blocks();
}

std::size_t TierMonitor::next_batch_blocks() const {
  if (!load_cost_.is_known()) return 1;  // soon known
  const double blocks = kBatch_s / load_cost_.seconds_for(block_bytes_);
  return blocks >= kTierBatchBlocks ? kTierBatchBlocks : std::max<std::size_t>(1, static_cast<std::size_t>(blocks));
}

bool TierMonitor::is_stale() const {
  const std::lock_guard lock(mutex_);
  return now_s_() - measured_s_ > kStaleAfter_s;
}

}  // namespace tiercel
