#include "kv/tier_worker.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#include "base/logging.h"
#include "kv/kv_cache_state.h"

namespace tiercel {

TierWorker::TierWorker(KvCacheState& cache, TierId tier, std::shared_ptr<TierStore> store, TierWorkerOptions options,
                       std::function<void(std::shared_ptr<TierLoad>)> hand_over)
    : cache_(cache),
      store_(std::move(store)),
      options_(std::move(options)),
      capacity_bytes_(store_->stats().capacity_bytes),
      hand_over_(std::move(hand_over)),
      monitor_(std::string(store_->name()), cache.layout_.block_bytes(), options_.deadline_s, options_.now_s),
      loader_(cache, tier, *store_, monitor_, [this] { return is_readable(); }),
      copied_(cache, *store_) {}

TierWorker::~TierWorker() { assert(!thread_.joinable()); }

Status TierWorker::start() try {
  const std::lock_guard lock(mutex_);
  // The thread keeps alive what it works on, should it outlive stop().
  thread_ = std::thread([self = shared_from_this(), cache = cache_.shared_from_this()] { self->work(); });
  running_ = true;
  return {};
} catch (const std::system_error&) {
  return Status::unavailable("the system gives no thread for a tier of the KV cache");
}

void TierWorker::stop() {
  std::deque<std::shared_ptr<TierLoad>> ended[2];  // not under the lock: leases end with them
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    ended[0].swap(loads_);
    ended[1].swap(prefetches_);
    for (const auto& loads : ended) {
      for (const auto& load : loads) load->ended = true;
    }
    demotions_.clear();
    writes_.clear();
    arrived_.notify_all();
    done_.notify_all();
    if (running_) {
      const auto deadline = std::chrono::duration<double>(options_.deadline_s);
      if (done_.wait_for(lock, deadline, [&] { return !running_; })) {
        lock.unlock();
        thread_.join();
      } else {
        log().warn("the tier '{}' hangs; it is left behind", store_->name());
        thread_.detach();
      }
    }
  }
}

bool TierWorker::has_work() {
  return may_erase() || !loads_.empty() || !prefetches_.empty() || !demotions_.empty() || !writes_.empty() ||
         flushes_done_ < flushes_asked_;
}

void TierWorker::work() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const auto ready = [&] { return stopping_ || has_work(); };
      if (erasures_.is_empty()) {
        arrived_.wait(lock, ready);
      } else {
        arrived_.wait_for(lock, std::chrono::seconds(1), ready);  // one failed: it is tried again
      }
      if (stopping_) {
        running_ = false;
        done_.notify_all();
        return;
      }
    }
    run_one();
  }
}

bool TierWorker::run_one() try {
  if (run_erase()) return true;
  if (run_write(demotions_)) {
    cache_.on_transferred();
    return true;
  }
  return run_load(loads_) || run_write(writes_) || run_load(prefetches_) || run_flush();
} catch (const std::bad_alloc&) {
  return true;  // what it was is given up: it is needed for nothing but speed
}

// ---- What is asked of it

bool TierWorker::is_readable() {
  const std::lock_guard lock(mutex_);
  const bool is_well = monitor_.may_read();
  return !stopping_ && !erasures_.is_pending() && is_well;
}

std::size_t TierWorker::leading(std::span<const BlockKey> keys) { return is_readable() ? store_->leading(keys) : 0; }

double TierWorker::seconds_to_load(const TierLoad& load, std::size_t first_block, std::size_t end_block) {
  const std::lock_guard lock(mutex_);
  return monitor_.seconds_until_loaded(end_block - std::min(end_block, first_block) + blocks_before(&load));
}

TierMonitor::Pace TierWorker::pace(const TierLoad* load) {
  const std::lock_guard lock(mutex_);
  return monitor_.pace(blocks_before(load));
}

std::size_t TierWorker::blocks_before(const TierLoad* load) const {
  std::size_t blocks = 0;
  for (const auto& other : loads_) {
    if (other.get() == load) break;
    const std::size_t part = other->part;
    if (part >= other->parts.size()) continue;
    const std::size_t begin = other->from_back ? other->tail.computed : other->arrived;
    const std::size_t end = other->from_back ? other->tail.first.load() : other->parts[part].end_block;
    blocks += end - std::min(end, begin);
  }
  return blocks;
}

// ---- Erasures

void TierWorker::erase(TierErasure erasure) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    erasures_.add(std::move(erasure));
    store_->on_erasures_pending(true);
  }
  arrived_.notify_all();
}

bool TierWorker::run_erase() {
  TierErasure erasure;
  {
    const std::lock_guard lock(mutex_);
    if (!may_erase()) return false;
    erasure = erasures_.begin();
  }
  monitor_.begin();
  Status status;
  switch (erasure.kind) {
    case TierErasure::Kind::Prefix: status = store_->erase(erasure.parent, erasure.tokens); break;
    case TierErasure::Kind::Tenant: status = store_->erase_tenant(erasure.tenant); break;
    case TierErasure::Kind::All: status = store_->erase_all(); break;
  }
  monitor_.end(status.ok());
  if (!status.ok() && !erasure.failed) {
    log().error("the tier '{}' could not forget for good, and will be asked again: {}", store_->name(),
                status.message());
  }
  const std::lock_guard lock(mutex_);
  erasures_.end(std::move(erasure), status.ok());
  if (!erasures_.is_pending()) store_->on_erasures_pending(false);
  return true;
}

// ---- Loads

bool TierWorker::load(const std::shared_ptr<TierLoad>& load) {
  {
    const std::lock_guard lock(mutex_);
    auto& loads = load->prefetch ? prefetches_ : loads_;
    if (stopping_) return false;
    if (std::ranges::find(loads, load) != loads.end()) return true;  // goes on, from the back
    if (loads.size() >= kMostLoads) return false;
    loads.push_back(load);
  }
  arrived_.notify_all();
  return true;
}

bool TierWorker::run_load(std::deque<std::shared_ptr<TierLoad>>& loads) {
  std::shared_ptr<TierLoad> load;
  {
    const std::lock_guard lock(mutex_);
    if (loads.empty()) return false;
    load = loads.front();  // stays there, so that others know what goes on
  }
  bool goes_on = false;
  try {
    goes_on = load->wanted && loader_.load_batch(*load);
  } catch (const std::bad_alloc&) {
    // It is needed for nothing but speed.
  }
  if (goes_on) {
    if (load->from_back) cache_.on_transferred();
    return true;
  }
  {
    const std::lock_guard lock(mutex_);
    std::erase(loads, load);
    if (stopping_) load->ended = true;
  }
  if (load->wanted && !load->ended && !load->from_back && ++load->part < load->parts.size()) {
    hand_over_(std::move(load));
  } else {
    load->ended = true;
    cache_.on_transferred();
  }
  return true;
}

// ---- Writes

void TierWorker::write(const std::shared_ptr<const TierWrite>& write, bool whatever_waits) {
  {
    const std::lock_guard lock(mutex_);
    bool queued = monitor_.may_write() && !stopping_ && (writes_.size() < kMostWrites || whatever_waits);
    try {
      if (queued) writes_.push_back({.write = write});
    } catch (const std::bad_alloc&) {
      queued = false;
    }
    if (!queued) monitor_.on_unstored(write->blocks.size());
  }
  arrived_.notify_all();
}

bool TierWorker::write_first(const std::shared_ptr<const TierWrite>& write, double most_s) try {
  std::size_t blocks = write->blocks.size();
  {
    const std::lock_guard lock(mutex_);
    if (!monitor_.may_write() || stopping_) return false;
    if (capacity_bytes_ != 0 && blocks * cache_.layout_.block_bytes() > capacity_bytes_) return false;
    for (const PendingWrite& other : demotions_) blocks += other.write->blocks.size() - other.done;
    if (monitor_.seconds_until_written(blocks) > most_s) return false;
    demotions_.push_back({.write = write});
  }
  arrived_.notify_all();
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

bool TierWorker::run_write(std::deque<PendingWrite>& writes) {
  PendingWrite pending;
  {
    const std::lock_guard lock(mutex_);
    if (writes.empty()) return false;
    pending = std::move(writes.front());
    writes.pop_front();
  }
  if (!monitor_.may_write()) {
    monitor_.on_unstored(pending.write->blocks.size() - pending.done);
    return true;
  }
  const TierWrite& write = *pending.write;
  // What is there already needs no copy; asked for as a path, it also counts as used.
  if (!std::exchange(pending.looked, true)) pending.done = store_->leading(std::span(write.keys).subspan(1));
  const std::size_t first = pending.done;
  const std::size_t last = std::min(first + kTierBatchBlocks, write.blocks.size());
  const double began_s = options_.now_s();
  const std::span<const TierRecord> records = copied_.copy(write, first, last);
  Status written;
  if (!records.empty()) {
    monitor_.begin();
    written = store_->write(records);
    monitor_.end(written.ok());
  }
  pending.done = first + (written.ok() ? records.size() : 0);
  monitor_.on_stored(pending.done - first, options_.now_s() - began_s);
  const std::lock_guard lock(mutex_);
  if (pending.done == last && last < write.blocks.size() && !stopping_) {
    writes.push_front(std::move(pending));
  } else {
    monitor_.on_unstored(write.blocks.size() - pending.done);
  }
  return true;
}

// ---- Flush

Status TierWorker::flush(double timeout_s) {
  std::unique_lock lock(mutex_);
  if (stopping_) return Status::unavailable("the KV cache is closed");
  const std::uint64_t asked = ++flushes_asked_;
  arrived_.notify_all();
  if (!running_) {
    lock.unlock();
    while (run_one()) {
    }
    lock.lock();
  }
  const bool done = done_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                                   [&] { return stopping_ || flushes_done_ >= asked; });
  if (flushes_done_ >= asked) return flush_status_;
  return Status::unavailable(done ? "the KV cache was closed meanwhile" : "a tier was not flushed in time");
}

bool TierWorker::run_flush() {
  std::uint64_t asked = 0;
  {
    const std::lock_guard lock(mutex_);
    if (flushes_done_ == flushes_asked_) return false;
    asked = flushes_asked_;
  }
  monitor_.begin();
  Status status = store_->flush();
  monitor_.end(status.ok());
  const std::lock_guard lock(mutex_);
  if (status.ok() && !erasures_.is_empty()) {
    status = Status::unavailable("a tier could not forget for good what it was asked to; it will be asked again");
  }
  flushes_done_ = asked;
  flush_status_ = std::move(status);
  done_.notify_all();
  return true;
}

}  // namespace tiercel
