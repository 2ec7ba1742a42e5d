#include "kv/tier_worker.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <utility>

#include "base/logging.h"
#include "kv/block_key.h"
#include "kv/kv_cache_state.h"

namespace tiercel {
namespace {

constexpr double kNever_s = std::numeric_limits<double>::infinity();
// How long a tier's figures are trusted while nobody loads from it because of them.
constexpr double kStaleAfter_s = 5;
// How long a batch may take, as far as is known, so that others come to their turn.
constexpr double kBatch_s = 0.02;
// More than these, and all is forgotten instead: it may forget more than was asked, never less.
constexpr std::size_t kMostErasures = 1024;

bool is_failure(StatusCode code) {
  return code != StatusCode::Ok && code != StatusCode::NotFound && code != StatusCode::Corruption;
}

}  // namespace

TierWorker::TierWorker(KvCacheState& cache, TierId tier, std::shared_ptr<TierStore> store, TierWorkerOptions options,
                       std::function<void(std::shared_ptr<TierLoad>)> hand_over)
    : cache_(cache),
      tier_(tier),
      store_(std::move(store)),
      options_(std::move(options)),
      capacity_bytes_(store_->stats().capacity_bytes),
      hand_over_(std::move(hand_over)),
      staging_(kBatchBlocks * cache.layout_.block_bytes()) {
  erasures_.reserve(kMostErasures + 1);
}

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

bool TierWorker::has_work() const {
  const bool may_erase = !erasures_.empty() && (!erasures_.front().failed || writes_well_.allows(options_.now_s()));
  return may_erase || !loads_.empty() || !prefetches_.empty() || !demotions_.empty() || !writes_.empty() ||
         flushes_done_ < flushes_asked_;
}

void TierWorker::work() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const auto ready = [&] { return stopping_ || has_work(); };
      if (erasures_.empty()) {
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

// ---- Health and speed

void TierWorker::begin_operation(std::size_t loading_bytes) {
  const std::lock_guard lock(mutex_);
  began_s_ = options_.now_s();
  loading_bytes_ = loading_bytes;
  late_ = false;
  (loading_bytes > 0 ? reads_well_ : writes_well_).on_begin(began_s_);
}

void TierWorker::end_operation(bool ok, std::size_t loaded_bytes) {
  const std::lock_guard lock(mutex_);
  const double now = options_.now_s();
  notice_late(now);
  CircuitBreaker& breaker = loading_bytes_ > 0 ? reads_well_ : writes_well_;
  if (!ok) {
    ++counts_.errors;
    breaker.on_failure(now);
  } else if (!late_) {
    breaker.on_success();
  }
  if (loaded_bytes > 0) {
    cost_.measured(loaded_bytes, now - began_s_);
    measured_s_ = now;
  }
  began_s_ = 0;
  loading_bytes_ = 0;
}

void TierWorker::notice_late(double now_s) {
  if (began_s_ == 0 || late_ || now_s - began_s_ <= options_.deadline_s) return;
  late_ = true;
  ++counts_.late;
  reads_well_.on_late(now_s);
  writes_well_.on_late(now_s);
  log().warn("the tier '{}' took more than {} s for one operation; it is not asked for a while", store_->name(),
             options_.deadline_s);
}

bool TierWorker::is_readable() {
  const std::lock_guard lock(mutex_);
  const double now = options_.now_s();
  notice_late(now);
  const bool erased = !erasing_ && (erasures_.empty() || erasures_.front().failed);
  // A breaker that would try again knows nothing of the operation that tripped it.
  return !stopping_ && erased && !hangs() && reads_well_.allows(now);
}

std::size_t TierWorker::leading(std::span<const BlockKey> keys) { return is_readable() ? store_->leading(keys) : 0; }

double TierWorker::seconds_to_load(const TierLoad& load, std::size_t first_block, std::size_t end_block) {
  const std::lock_guard lock(mutex_);
  const double now = options_.now_s();
  notice_late(now);
  if (hangs()) return kNever_s;
  const std::size_t blocks = end_block - std::min(end_block, first_block) + blocks_before(&load);
  const double elapsed = began_s_ == 0 ? 0 : now - began_s_;
  const std::size_t bytes = blocks * cache_.layout_.block_bytes();
  if (loading_bytes_ == 0) return elapsed + cost_.seconds_for(bytes);  // what goes on may take as long again
  // No faster than what is under way has been until now.
  return std::max(cost_.seconds_for(bytes), elapsed * static_cast<double>(bytes) / static_cast<double>(loading_bytes_));
}

double TierWorker::seconds_to_load(std::size_t blocks) const {
  const std::lock_guard lock(mutex_);
  return cost_.seconds_for(blocks * cache_.layout_.block_bytes());
}

TierWorker::Pace TierWorker::pace(const TierLoad* load) {
  const std::lock_guard lock(mutex_);
  const double now = options_.now_s();
  notice_late(now);
  const std::size_t block_bytes = cache_.layout_.block_bytes();
  Pace pace{.block_s = cost_.seconds_for(block_bytes), .batch_blocks = batch_blocks(), .is_measured = cost_.is_known()};
  if (began_s_ != 0) {
    const double elapsed = now - began_s_;
    pace.begin_s = elapsed;  // what is not known may take as long again
    if (loading_bytes_ > 0) {
      // What is late by some time may take that time again.
      pace.begin_s = std::abs(cost_.seconds_for(loading_bytes_) - elapsed);
      const double blocks = static_cast<double>(loading_bytes_) / static_cast<double>(block_bytes);
      pace.block_s = std::max(pace.block_s, elapsed / blocks);
    }
    if (hangs()) pace.begin_s = kNever_s;
  }
  pace.begin_s += static_cast<double>(blocks_before(load)) * pace.block_s;
  return pace;
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

std::size_t TierWorker::batch_blocks() const {
  if (!cost_.is_known()) return 1;  // soon known
  const double blocks = kBatch_s / cost_.seconds_for(cache_.layout_.block_bytes());
  return blocks >= kBatchBlocks ? kBatchBlocks : std::max<std::size_t>(1, static_cast<std::size_t>(blocks));
}

bool TierWorker::is_stale() const {
  const std::lock_guard lock(mutex_);
  return options_.now_s() - measured_s_ > kStaleAfter_s;
}

TierWorker::Counts TierWorker::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

TierWorker::Health TierWorker::health() const {
  const std::lock_guard lock(mutex_);
  const bool hangs = began_s_ != 0 && options_.now_s() - began_s_ > options_.deadline_s;
  return {.reads = reads_well_.is_closed() && !hangs,
          .writes = writes_well_.is_closed() && !hangs,
          .bytes_per_s = cost_.is_known() ? cost_.bytes_per_s() : 0};
}

// ---- Erasures

void TierWorker::erase(TierErasure erasure) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (erasures_.size() >= kMostErasures) {
      erasures_.clear();
      erasure = {.kind = TierErasure::Kind::All};
    }
    // Those that failed come last.
    const auto failed = std::ranges::find_if(erasures_, [](const TierErasure& other) { return other.failed; });
    erasures_.insert(failed, std::move(erasure));  // has room
  }
  arrived_.notify_all();
}

bool TierWorker::run_erase() {
  TierErasure erasure;
  {
    const std::lock_guard lock(mutex_);
    if (erasures_.empty()) return false;
    if (erasures_.front().failed && !writes_well_.allows(options_.now_s())) return false;
    erasure = std::move(erasures_.front());
    erasures_.erase(erasures_.begin());
    erasing_ = !erasure.failed;
  }
  begin_operation(0);
  Status status;
  switch (erasure.kind) {
    case TierErasure::Kind::Prefix: status = store_->erase(erasure.parent, erasure.tokens); break;
    case TierErasure::Kind::Tenant: status = store_->erase_tenant(erasure.tenant); break;
    case TierErasure::Kind::All: status = store_->erase_all(); break;
  }
  end_operation(status.ok(), 0);
  const std::lock_guard lock(mutex_);
  erasing_ = false;
  if (!status.ok()) {
    if (!erasure.failed) {
      log().error("the tier '{}' could not forget for good, and will be asked again: {}", store_->name(),
                  status.message());
    }
    erasure.failed = true;
    erasures_.push_back(std::move(erasure));
  }
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
    goes_on = load->wanted &&
              (load->from_back ? load_batch_from_back(*load) : load_batch(*load, load->parts[load->part].end_block));
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

bool TierWorker::load_batch(TierLoad& load, std::size_t end_block) {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  std::size_t batch = 0;
  {
    const std::lock_guard lock(mutex_);
    batch = batch_blocks();
  }
  const std::size_t last = std::min(load.arrived + batch, end_block);
  const auto prefix = std::span(std::as_const(load.tokens)).first(last * block_tokens);
  const AdmitOptions options{.max_tokens = prefix.size(),
                             .scope = {.salt = load.salt, .adapter_id = load.adapter_id},
                             .partial_blocks = false,
                             .retention = load.retention};
  auto lease =
      load.prefetch ? cache_.admit_into_free(prefix, options, tier_) : cache_.admit(prefix, options, nullptr, tier_);
  if (!lease.ok()) return false;  // no room now
  // Asked after the admission: an erasure that was queued before it shows here, a later one when the lease would share.
  if (!is_readable()) return false;
  const std::size_t first = lease->matched_tokens() / block_tokens;
  if (first < load.first_block) return false;  // what it goes on from was evicted
  std::size_t arrived = first;
  if (first < last) {
    if (!lease->grow(prefix.size()).ok()) return false;
    for (const TierRead& read : read(load, first, last, lease->block_table().subspan(first))) {
      if (!read.status.ok()) break;
      lease->commit(read.tokens, /*share=*/true, read.copyable);
      ++arrived;
    }
  }
  load.arrived = arrived;
  return arrived == last && last < end_block;
}

bool TierWorker::load_batch_from_back(TierLoad& load) {
  TierLoad::Tail& tail = load.tail;
  std::size_t batch = 0;
  {
    const std::lock_guard lock(mutex_);
    batch = batch_blocks();
  }
  {
    const std::lock_guard cache_lock(cache_.mutex_);
    if (tail.first <= tail.computed) return false;
    tail.reading = tail.first - std::min(batch, tail.first - tail.computed);
  }
  const std::size_t first = tail.reading, last = tail.first;
  // Blocks that nobody finds until they join the prompt's lease, which returns a promise for each.
  const AdmitOptions options{.max_tokens = (last - first) * cache_.layout_.block_tokens,
                             .scope = {.salt = load.salt, .adapter_id = load.adapter_id},
                             .retention = load.retention};
  auto lease = cache_.admit({}, options, nullptr, tier_);
  if (!lease.ok()) return false;  // no room now
  if (!is_readable()) return false;
  if (!lease->grow(options.max_tokens).ok()) return false;
  const std::vector<TierRead> reads = read(load, first, last, lease->block_table());
  const std::lock_guard cache_lock(cache_.mutex_);
  tail.leases.push_back(*std::move(lease));
  const std::span<const BlockId> table = tail.leases.back().block_table();
  std::size_t left = reads.size();
  for (; left > 0 && reads[left - 1].status.ok(); --left) {
    tail.blocks.push_back({.block = table[left - 1], .copyable = reads[left - 1].copyable});  // has room
  }
  tail.first = tail.reading = first + left;
  return left == 0;
}

std::vector<TierRead> TierWorker::read(const TierLoad& load, std::size_t first, std::size_t last,
                                       std::span<const BlockId> into) {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t block_bytes = cache_.layout_.block_bytes();
  std::vector<TierRead> reads;
  reads.reserve(last - first);
  for (std::size_t i = first; i < last; ++i) {
    reads.push_back({.key = load.keys[i + 1 - load.first_block],
                     .parent = load.keys[i - load.first_block],
                     .tenant = load.tenant,
                     .tokens = std::span(load.tokens).subspan(i * block_tokens, block_tokens),
                     .bytes = {cache_.block(into[i - first]), block_bytes}});
  }
  begin_operation(reads.size() * block_bytes);
  store_->read(reads);
  const auto count = [&](auto matches) {
    return static_cast<std::uint64_t>(
        std::ranges::count_if(reads, [&](const TierRead& read) { return matches(read.status.code()); }));
  };
  const std::uint64_t whole = count([](StatusCode code) { return code == StatusCode::Ok; });
  end_operation(count(is_failure) == 0, whole * block_bytes);
  const std::lock_guard lock(mutex_);
  counts_.loaded_blocks += whole;
  counts_.corrupt_blocks += count([](StatusCode code) { return code == StatusCode::Corruption; });
  return reads;
}

// ---- Writes

void TierWorker::write(const std::shared_ptr<const TierWrite>& write, bool whatever_waits) {
  {
    const std::lock_guard lock(mutex_);
    const double now = options_.now_s();
    notice_late(now);
    const bool well = writes_well_.allows(now) && !hangs();
    bool queued = !stopping_ && well && (writes_.size() < kMostWrites || whatever_waits);
    try {
      if (queued) writes_.push_back({.write = write});
    } catch (const std::bad_alloc&) {
      queued = false;
    }
    if (!queued) counts_.unstored_blocks += write->blocks.size();
  }
  arrived_.notify_all();
}

bool TierWorker::write_first(const std::shared_ptr<const TierWrite>& write, double most_s) try {
  const std::size_t bytes = write->blocks.size() * cache_.layout_.block_bytes();
  {
    const std::lock_guard lock(mutex_);
    const double now = options_.now_s();
    notice_late(now);
    if (stopping_ || !writes_well_.allows(now) || hangs()) return false;
    if (capacity_bytes_ != 0 && bytes > capacity_bytes_) return false;
    const double elapsed_s = began_s_ == 0 ? 0 : now - began_s_;  // what goes on may take as long again
    std::size_t bytes_before = 0;
    for (const PendingWrite& other : demotions_) {
      bytes_before += (other.write->blocks.size() - other.done) * cache_.layout_.block_bytes();
    }
    if (elapsed_s + write_cost_.seconds_for(bytes_before + bytes) > most_s) return false;
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
    if (!writes_well_.allows(options_.now_s())) {
      counts_.unstored_blocks += pending.write->blocks.size() - pending.done;
      return true;
    }
  }
  const TierWrite& write = *pending.write;
  // What is there already needs no copy; asked for as a path, it also counts as used.
  if (!std::exchange(pending.looked, true)) pending.done = store_->leading(std::span(write.keys).subspan(1));
  const std::size_t first = pending.done;
  const std::size_t last = std::min(first + kBatchBlocks, write.blocks.size());
  const double began_s = options_.now_s();
  std::vector<TokenId> tokens;
  std::vector<TierRecord> records;
  copy_batch(write, first, last, tokens, records);
  Status written;
  if (!records.empty()) {
    begin_operation(0);
    written = store_->write(records);
    end_operation(written.ok(), 0);
  }
  const std::lock_guard lock(mutex_);
  pending.done = first + (written.ok() ? records.size() : 0);
  counts_.stored_blocks += pending.done - first;
  if (pending.done > first) {
    write_cost_.measured((pending.done - first) * cache_.layout_.block_bytes(), options_.now_s() - began_s);
  }
  if (pending.done == last && last < write.blocks.size() && !stopping_) {
    writes.push_front(std::move(pending));
  } else {
    counts_.unstored_blocks += write.blocks.size() - pending.done;
  }
  return true;
}

void TierWorker::copy_batch(const TierWrite& write, std::size_t first, std::size_t last, std::vector<TokenId>& tokens,
                            std::vector<TierRecord>& records) {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t block_bytes = cache_.layout_.block_bytes();
  tokens.resize((last - first) * block_tokens);
  records.reserve(last - first);
  {
    const std::lock_guard cache_lock(cache_.mutex_);
    const PrefixIndex& index = cache_.index_;
    // With all before them, as every holder does.
    std::size_t held = 0, newly_held = 0;
    for (; held < last; ++held) {
      const BlockId block = write.blocks[held];
      const bool is_there = index.contains(block) && block_key(index.key_of(block)) == write.keys[held + 1] &&
                            (held == 0 || index.parent(block) == write.blocks[held - 1]);
      if (!is_there) break;
      newly_held += cache_.pool_.references(block) == 0;
    }
    if (held <= first || newly_held > cache_.pool_.claimable_blocks()) return;
    for (std::size_t i = 0; i < held; ++i) cache_.hold(write.blocks[i]);
    for (std::size_t i = first; i < held; ++i) {
      const auto own_tokens = std::span(tokens).subspan((i - first) * block_tokens, block_tokens);
      std::ranges::copy(index.tokens(write.blocks[i]), own_tokens.begin());
      records.push_back({.key = write.keys[i + 1],
                         .parent = write.keys[i],
                         .tenant = write.tenant,
                         .tokens = own_tokens,
                         .bytes = std::span(staging_).subspan((i - first) * block_bytes, block_bytes),
                         .position = static_cast<std::uint32_t>(i),
                         .copyable = index.is_copyable(write.blocks[i])});
    }
  }
  for (std::size_t i = 0; i < records.size(); ++i) {
    std::memcpy(staging_.data() + i * block_bytes, cache_.block(write.blocks[first + i]), block_bytes);
  }
  const std::lock_guard cache_lock(cache_.mutex_);
  for (std::size_t i = first + records.size(); i-- > 0;) cache_.drop(write.blocks[i]);
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
  begin_operation(0);
  Status status = store_->flush();
  end_operation(status.ok(), 0);
  const std::lock_guard lock(mutex_);
  if (status.ok() && !erasures_.empty()) {
    status = Status::unavailable("a tier could not forget for good what it was asked to; it will be asked again");
  }
  flushes_done_ = asked;
  flush_status_ = std::move(status);
  done_.notify_all();
  return true;
}

}  // namespace tiercel
