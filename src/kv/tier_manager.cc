#include "kv/tier_manager.h"

#include <algorithm>
#include <cassert>
#include <new>
#include <system_error>
#include <utility>

#include "kv/kv_cache_state.h"

namespace tiercel {
namespace {

BlockKey block_key(const ContentKey& key) { return {.low = key.low, .high = key.high}; }

}  // namespace

TierManager::TierManager(KvCacheState& cache, std::vector<std::shared_ptr<TierStore>> stores)
    : cache_(cache), stores_(std::move(stores)) {
  assert(!stores_.empty());
}

TierManager::~TierManager() { assert(!thread_.joinable() && !load_ && !write_ && writes_.empty()); }

Status TierManager::start() try {
  thread_ = std::thread([this] { work(); });
  return {};
} catch (const std::system_error&) {
  return Status::unavailable("the system gives no thread for the tiers of the KV cache");
}

void TierManager::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    loads_.clear();
    running_ = kNoLoad;
  }
  arrived_.notify_one();
  if (thread_.joinable()) thread_.join();
  if (load_) end_load();
  if (write_) end_write();
  const std::lock_guard cache_lock(cache_.mutex_);
  abandon_writes();
}

void TierManager::work() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      // What is under way is the last to be looked at: run_one() says when there is nothing at all.
      if (!load_ && !write_) {
        arrived_.wait(lock, [&] { return stopping_ || !loads_.empty() || !writes_.empty() || !erases_.empty(); });
      }
      if (stopping_) return;
    }
    run_one();
  }
}

bool TierManager::run_one() try {
  if (run_erase()) return true;
  if (load_ || begin_load()) {
    continue_load();
    return true;
  }
  if (write_ || begin_write()) {
    continue_write();
    return true;
  }
  return false;
} catch (const std::bad_alloc&) {
  // Neither is needed for anything but speed.
  if (load_) end_load();
  if (write_) end_write();
  return true;
}

bool TierManager::run_erase() {
  std::vector<BlockKey> keys;
  {
    const std::lock_guard lock(mutex_);
    keys.swap(erases_);
  }
  if (keys.empty()) return false;
  // (being rewritten)
  return true;
}

// ---- Loads

std::size_t TierManager::available(std::span<const BlockKey> keys) const {
  std::size_t known = 0;
  for (bool more = true; more && known < keys.size();) {
    more = false;
    for (const auto& store : stores_) {
      const std::size_t here = store->leading(keys.subspan(known));
      known += here;
      more = more || here > 0;
    }
  }
  return known;
}

LoadTicket TierManager::expect(std::span<const TokenId> tokens, const AdmitOptions& options, std::size_t hot_blocks,
                               const ContentKey& hot_key) try {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t blocks = tokens.size() / block_tokens;
  std::vector<BlockKey> keys;
  keys.reserve(blocks - hot_blocks);
  ContentKey key = hot_key;
  for (std::size_t i = hot_blocks; i < blocks; ++i) {
    key = child_key(cache_.seams_.key_function, key, tokens.subspan(i * block_tokens, block_tokens));
    keys.push_back(block_key(key));
  }
  const std::size_t found = available(keys);
  if (found == 0) return kNoLoad;
  const auto wanted = tokens.first((hot_blocks + found) * block_tokens);
  Load load{.salt = std::string(options.scope.salt),
            .adapter_id = options.scope.adapter_id,
            .retention = options.retention,
            .tokens = {wanted.begin(), wanted.end()}};
  LoadTicket ticket = kNoLoad;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || loads_.size() >= kMostLoads) return kNoLoad;
    ticket = load.ticket = ++last_ticket_;
    loads_.push_back(std::move(load));
  }
  arrived_.notify_one();
  return ticket;
} catch (const std::bad_alloc&) {
  return kNoLoad;  // computed instead
}

bool TierManager::is_pending(LoadTicket ticket) const {
  if (ticket == kNoLoad) return false;
  const std::lock_guard lock(mutex_);
  return running_ == ticket || std::ranges::find(loads_, ticket, &Load::ticket) != loads_.end();
}

void TierManager::cancel(LoadTicket ticket) {
  if (ticket == kNoLoad) return;
  const std::lock_guard lock(mutex_);
  if (running_ == ticket) running_ = kNoLoad;
  std::erase_if(loads_, [&](const Load& load) { return load.ticket == ticket; });
}

bool TierManager::begin_load() {
  {
    const std::lock_guard lock(mutex_);
    if (loads_.empty()) return false;
    load_.emplace();
    load_->load = std::move(loads_.front());
    loads_.pop_front();
    running_ = load_->load.ticket;
  }
  const Load& load = load_->load;
  const AdmitOptions options{.max_tokens = load.tokens.size(),
                             .scope = {.salt = load.salt, .adapter_id = load.adapter_id},
                             .partial_blocks = false,
                             .retention = load.retention};
  auto lease = cache_.admit(load.tokens, options, KvCacheState::Purpose::Load);
  if (!lease.ok()) return true;  // no room now: the empty lease ends it at once
  load_->lease = *std::move(lease);
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  ContentKey key = root_key(cache_.seams_.key_function, cache_.fingerprint_, load.salt, load.adapter_id);
  load_->keys.reserve(load.tokens.size() / block_tokens + 1);
  load_->keys.push_back(block_key(key));
  for (std::size_t at = 0; at < load.tokens.size(); at += block_tokens) {
    key = child_key(cache_.seams_.key_function, key, std::span(load.tokens).subspan(at, block_tokens));
    load_->keys.push_back(block_key(key));
  }
  return true;
}

void TierManager::continue_load() {
  {
    const std::lock_guard lock(mutex_);
    if (running_ == kNoLoad) load_->keys.clear();  // cancelled
  }
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  Lease& lease = load_->lease;
  const std::span<const TokenId> tokens = load_->load.tokens;
  const std::size_t first = lease.committed_tokens() / block_tokens;
  const std::size_t last = std::min(first + kBatchBlocks, tokens.size() / block_tokens);
  if (load_->keys.empty() || first == last) return end_load();

  std::vector<TierRead> reads;
  reads.reserve(last - first);
  // Block for block as they are needed: what a miss leaves unread was never taken from anyone.
  if (!lease.grow(last * block_tokens).ok()) return end_load();
  const std::span<const BlockId> table = lease.block_table();
  for (std::size_t i = first; i < last; ++i) {
    reads.push_back({.key = load_->keys[i + 1],
                     .parent = load_->keys[i],
                     .tokens = tokens.subspan(i * block_tokens, block_tokens),
                     .bytes = {cache_.block(table[i]), cache_.layout_.block_bytes()}});
  }
  read(reads);
  const auto missing = std::ranges::find_if(reads, [](const TierRead& read) { return !read.status.ok(); });
  const auto verified = static_cast<std::size_t>(missing - reads.begin());
  // The tier does not say how they were computed, so no parts of them are copied.
  lease.commit(tokens.subspan(first * block_tokens, verified * block_tokens), /*share=*/true, /*copyable=*/false);
  if (missing != reads.end() || last * block_tokens == tokens.size()) end_load();
}

void TierManager::end_load() {
  load_.reset();  // gives the lease back first, so that who no longer sees it in flight finds its blocks
  const std::lock_guard lock(mutex_);
  running_ = kNoLoad;
}

void TierManager::read(std::span<TierRead> reads) {
  stores_.front()->read(reads);
  std::uint64_t errors = 0;
  for (std::size_t tier = 0; tier < stores_.size(); ++tier) {
    for (TierRead& read : reads) {
      if (tier > 0 && !read.status.ok()) stores_[tier]->read({&read, 1});
      errors += !read.status.ok() && read.status.code() != StatusCode::NotFound;
    }
  }
  if (errors == 0) return;
  const std::lock_guard lock(mutex_);
  counts_.store_errors += errors;
}

// ---- Writes

void TierManager::offer(std::span<const BlockId> blocks) {
  std::size_t shared = 0, kept = 0, taken = 0;
  while (shared < blocks.size() && cache_.index_.contains(blocks[shared])) ++shared;
  if (shared == 0) return;
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  try {
    const std::size_t most = cache_.pool_.capacity_blocks() / kWriteShare;
    const std::size_t room = std::min(most - std::min(most, kept_blocks_), cache_.pool_.claimable_blocks());
    if (writes_.size() < kMostWrites) {
      for (; taken < shared; ++taken) {
        if (cache_.pool_.references(blocks[taken]) > 1) continue;  // others hold it too: costs nothing more
        if (kept == room) break;
        ++kept;
      }
    }
    if (taken > 0) {
      Write write{.blocks = {blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(taken)}, .kept_blocks = kept};
      writes_.push_back(std::move(write));
      for (const BlockId block : writes_.back().blocks) cache_.hold(block);
      kept_blocks_ += kept;
    }
  } catch (const std::bad_alloc&) {
    taken = 0;
  }
  counts_.unstored_blocks += shared - taken;
  if (taken > 0) arrived_.notify_one();
}

bool TierManager::abandon_writes() {
  const std::lock_guard lock(mutex_);
  const bool any = !writes_.empty();
  for (; !writes_.empty(); writes_.pop_front()) {
    const Write& write = writes_.front();
    kept_blocks_ -= write.kept_blocks;
    counts_.unstored_blocks += write.blocks.size();
    drop_blocks(write);
  }
  return any;
}

void TierManager::drop_blocks(const Write& write) {
  for (std::size_t i = write.blocks.size(); i-- > 0;) cache_.drop(write.blocks[i]);
}

bool TierManager::begin_write() {
  const std::lock_guard cache_lock(cache_.mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (writes_.empty()) return false;
    write_.emplace();
    write_->write = std::move(writes_.front());
    writes_.pop_front();
  }
  const std::vector<BlockId>& blocks = write_->write.blocks;
  write_->keys.reserve(blocks.size() + 1);
  write_->tokens.reserve(blocks.size() * cache_.layout_.block_tokens);
  for (const BlockId block : blocks) {
    if (!cache_.index_.contains(block)) break;  // forgotten since
    if (write_->keys.empty()) write_->keys.push_back(block_key(cache_.index_.key_of(cache_.index_.parent(block))));
    const auto tokens = cache_.index_.tokens(block);
    write_->tokens.insert(write_->tokens.end(), tokens.begin(), tokens.end());
    write_->keys.push_back(block_key(cache_.index_.key_of(block)));
  }
  return true;
}

void TierManager::continue_write() {
  RunningWrite& running = *write_;
  if (running.keys.empty()) return end_write();
  TierStore& store = *stores_.front();
  const std::size_t blocks = running.keys.size() - 1;
  const std::span<const BlockKey> keys = std::span(running.keys).subspan(1);
  if (running.done == 0) running.done = store.leading(keys);
  const std::size_t last = std::min(running.done + kBatchBlocks, blocks);
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  std::vector<TierRecord> records;
  records.reserve(kBatchBlocks);
  {
    // A block that is forgotten from here on has its key in the queue of those to be erased, behind this write.
    const std::lock_guard cache_lock(cache_.mutex_);
    for (std::size_t i = running.done; i < last && cache_.index_.contains(running.write.blocks[i]); ++i) {
      records.push_back({.key = running.keys[i + 1],
                         .parent = running.keys[i],
                         .tokens = std::span(running.tokens).subspan(i * block_tokens, block_tokens),
                         .bytes = {cache_.block(running.write.blocks[i]), cache_.layout_.block_bytes()}});
    }
  }
  const bool forgotten = records.size() < last - running.done;
  const Status written = records.empty() ? Status() : store.write(records);
  {
    const std::lock_guard lock(mutex_);
    (written.ok() ? counts_.stored_blocks : counts_.unstored_blocks) += records.size();
    counts_.store_errors += !written.ok();
  }
  running.done = last;
  if (written.ok() && !forgotten && last < blocks) return;
  // The path is in use as a whole, not only what was written last.
  if (written.ok() && !forgotten) static_cast<void>(store.leading(keys));
  end_write();
}

void TierManager::end_write() {
  const std::lock_guard cache_lock(cache_.mutex_);
  drop_blocks(write_->write);
  const std::lock_guard lock(mutex_);
  kept_blocks_ -= write_->write.kept_blocks;
  write_.reset();
}

// ---- Forgetting

void TierManager::forget(const ContentKey& key) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  try {
    erases_.push_back(block_key(key));
  } catch (const std::bad_alloc&) {
    return;  // equal content may be found again, never other content
  }
  if (erases_.size() == 1) arrived_.notify_one();
}

TierManager::Counts TierManager::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace tiercel
