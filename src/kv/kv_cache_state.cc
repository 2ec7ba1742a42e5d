#include "kv/kv_cache_state.h"

#include <chrono>
#include <new>
#include <utility>

#include "base/logging.h"
#include "kv/block_arena.h"
#include "kv/refusal.h"

namespace tiercel {
namespace {

// Bytes of a block of `layout`, or 0 where a field is 0 or the product overflows.
std::size_t checked_block_bytes(const KvLayout& layout) {
  const std::size_t row = layout.head_dim == 0 ? 0 : layout.head_dim + layout.scale_bytes();
  std::size_t bytes = 2 * size_of(layout.dtype);
  for (const std::size_t factor :
       {std::size_t{layout.layers}, std::size_t{layout.kv_heads}, row, std::size_t{layout.block_tokens}}) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) return 0;
  }
  return bytes;
}

std::uint64_t steady_ms() {
  using namespace std::chrono;
  return static_cast<std::uint64_t>(duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count());
}

double steady_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Status out_of_memory(const char* what) {
  return refusal(StatusCode::Unavailable, "the system gives no memory for {}", what);
}

}  // namespace

Result<KvCache> KvCacheState::open(const KvCacheOptions& options, const KvLayout& layout,
                                   const Fingerprint& fingerprint, std::span<const KvGroup> groups, KvCacheSeams seams,
                                   std::shared_ptr<const BlockMemory> memory) {
  const std::size_t block_bytes = checked_block_bytes(layout);
  const std::size_t stride = memory ? memory->stride() : BlockMemory::stride_of(block_bytes);
  if (stride == 0) {
    return refusal(StatusCode::InvalidArgument,
                   "the KV layout is {} layers, {} KV heads, {} values per head and {} tokens per block; give at least "
                   "1 of each, and blocks that fit the address space",
                   layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens);
  }
  const std::size_t blocks = memory ? memory->blocks() : options.capacity_bytes / stride;
  if (blocks == 0 || blocks > PrefixIndex::kMostBlocks) {
    return refusal(StatusCode::InvalidArgument,
                   "capacity_bytes is {}, which holds {} KV blocks of {} bytes; give room for 1 to {} blocks",
                   options.capacity_bytes, blocks, stride, PrefixIndex::kMostBlocks);
  }
  if (options.tenant_quota_bytes > 0 && options.tenant_quota_bytes < stride) {
    return refusal(StatusCode::InvalidArgument, "tenant_quota_bytes is {}; give at least the {} bytes of a block, or 0",
                   options.tenant_quota_bytes, stride);
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i == 0 ? groups[i].window_tokens != 0 : groups[i].window_tokens == 1) {
      return refusal(StatusCode::InvalidArgument,
                     "KV group {} has a window of {} tokens; the first group is full (0), a window has at least 2", i,
                     groups[i].window_tokens);
    }
  }
  if (!options.tiers.empty() && groups.size() > 1) {
    return refusal(StatusCode::InvalidArgument,
                   "tiers hold blocks of one KV group; open the cache with one group, or without tiers");
  }
  if (options.tiers.size() > kMostTiers) {
    return refusal(StatusCode::InvalidArgument, "{} tiers are more than {}", options.tiers.size(), kMostTiers);
  }
  for (const auto& tier : options.tiers) {
    if (tier == nullptr) return refusal(StatusCode::InvalidArgument, "a tier is null; leave it out, or give a store");
    if (!options.prefix_reuse) continue;
    if (const Status opened = tier->open(layout, fingerprint); !opened.ok()) {
      return refusal(opened.code(), "the tier '{}': {}", tier->name(), opened.message());
    }
  }
  try {
    if (!memory) {
      auto arena = BlockArena::reserve(blocks, block_bytes);
      if (!arena.ok()) return arena.status();
      memory = std::make_shared<const BlockArena>(*std::move(arena));
    }
    auto policy = options.eviction ? options.eviction(blocks) : adaptive()(blocks);
    if (policy == nullptr)
      return refusal(StatusCode::InvalidArgument, "the eviction option made no policy; return one");
    std::unique_ptr<TraceRecorder> recorder;
    if (!options.record_trace.empty()) {
      auto opened = TraceRecorder::open(options.record_trace, layout.block_tokens);
      if (!opened.ok()) return opened.status();
      recorder = *std::move(opened);
    }
    if (!seams.now_ms) seams.now_ms = steady_ms;
    if (!seams.tier_now_s) seams.tier_now_s = steady_s;
    const bool background_thread = seams.background_thread;
    auto state = std::make_shared<KvCacheState>(options, layout, fingerprint, groups, std::move(seams),
                                                std::move(memory), std::move(policy), std::move(recorder));
    if (state->tiers_ && background_thread) TIERCEL_RETURN_IF_ERROR(state->tiers_->start());
    return KvCache(std::move(state));
  } catch (const std::bad_alloc&) {
    return out_of_memory("the index of the KV cache");
  }
}

KvCacheState::KvCacheState(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                           std::span<const KvGroup> groups, KvCacheSeams seams,
                           std::shared_ptr<const BlockMemory> memory, std::unique_ptr<EvictionPolicy> policy,
                           std::unique_ptr<TraceRecorder> recorder)
    : layout_(layout),
      groups_(groups.empty() ? std::vector<KvGroup>(1) : std::vector<KvGroup>(groups.begin(), groups.end())),
      prefix_reuse_(options.prefix_reuse),
      fingerprint_(fingerprint),
      seams_(std::move(seams)),
      memory_(std::move(memory)),
      prefault_bytes_(options.prefault_bytes),
      recorder_(std::move(recorder)),
      pool_(memory_->blocks()),
      index_(memory_->blocks(), layout.block_tokens, fingerprint, seams_.key_function, groups_.size()),
      tails_(prefix_reuse_ ? memory_->blocks() : 1, layout.block_tokens),
      order_(memory_->blocks(), std::move(policy)) {
  const std::size_t capacity_blocks = memory_->blocks();
  if (options.tenant_quota_bytes > 0) {
    const bool limited = options.tenant_quota_bytes != SIZE_MAX;
    tenants_.emplace(capacity_blocks, limited ? options.tenant_quota_bytes / memory_->stride() : 0);
  }
  // A block of a window is given up before its lease ends, which is its use. So from the start on it must be known who
  // was used and who was not: the first use with a ttl may come in between.
  if (groups_.size() > 1) expires_ms_.resize(capacity_blocks);
  if (!options.tiers.empty() && prefix_reuse_) {
    loaded_from_.resize(capacity_blocks, kNoTier);
    tier_hits_.resize(options.tiers.size());
    writes_.emplace(options.tier_writes, capacity_blocks);
    tiers_ = std::make_unique<TierManager>(
        *this, options.tiers,
        TierWorkerOptions{.deadline_s = static_cast<double>(options.tier_deadline_ms) / 1e3,
                          .now_s = seams_.tier_now_s});
  }
}

void KvCacheState::close() {
  if (!tiers_) return;
  constexpr double kPatience_s = 5;
  if (const Status flushed = tiers_->flush(kPatience_s); !flushed.ok()) {
    log().warn("not all cached KV was kept when the cache closed: {}", flushed.message());
  }
  tiers_->stop();
  end_demotions(/*all=*/true);
}

Status KvCacheState::flush(std::uint64_t timeout_ms) {
  return tiers_ ? tiers_->flush(static_cast<double>(timeout_ms) / 1e3) : Status();
}

void KvCacheState::report_prefill(std::size_t tokens, std::size_t position, double seconds) {
  if (tiers_) tiers_->computed(tokens, position, seconds);
}

void KvCacheState::notify_transfers(std::function<void()> notify) {
  const std::lock_guard lock(notify_mutex_);
  notify_.swap(notify);
}

void KvCacheState::observe_copies(std::function<void(BlockId, BlockId, std::size_t)> observe) {
  const std::lock_guard lock(mutex_);
  observe_copy_ = std::move(observe);
}

void KvCacheState::on_transferred() {
  const std::lock_guard lock(notify_mutex_);
  if (notify_) notify_();
}

std::vector<KvTierStats> KvCacheState::tier_stats() const try {
  std::vector<KvTierStats> tiers(tiers_ ? tiers_->tiers() : 0);
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    const TierWorker& worker = tiers_->worker(i);
    const TierMonitor::Counts counts = worker.monitor().counts();
    const TierMonitor::Health health = worker.monitor().health();
    tiers[i] = {.name = std::string(worker.store().name()),
                .medium = worker.store().medium(),
                .store = worker.store().stats(),
                .loaded_blocks = counts.loaded_blocks,
                .stored_blocks = counts.stored_blocks,
                .errors = counts.errors,
                .late = counts.late,
                .reads_available = health.reads,
                .writes_available = health.writes,
                .load_bytes_per_s = health.bytes_per_s};
  }
  return tiers;
} catch (const std::bad_alloc&) {
  return {};
}

KvRoom KvCacheState::room() {
  end_demotions();
  const std::lock_guard lock(mutex_);
  const std::size_t free = pool_.free_blocks(), promised = pool_.promised_blocks();
  return {.free_blocks = free - std::min(free, promised),
          .grantable_blocks = free + pool_.cached_blocks() - promised,
          .demoting_blocks = demoting_blocks_,
          .unpinned_blocks = pool_.capacity_blocks() - pinned_blocks_};
}

KvCacheStats KvCacheState::stats() {
  end_demotions();
  // Stores are asked without the lock.
  std::vector<KvTierStats> tiers = tier_stats();
  std::uint64_t stored = 0, unstored = 0, errors = 0;
  for (std::size_t i = 0; tiers_ && i < tiers_->tiers(); ++i) {
    const TierMonitor::Counts counts = tiers_->worker(i).monitor().counts();
    stored += counts.stored_blocks;
    unstored += counts.unstored_blocks;
    errors += counts.errors + counts.corrupt_blocks;
  }
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < tiers.size(); ++i) tiers[i].matched_tokens = tier_hits_[i];
  std::size_t metadata_bytes = pool_.metadata_bytes() + index_.metadata_bytes() + tails_.metadata_bytes() +
                               order_.metadata_bytes() + expires_ms_.capacity() * sizeof(expires_ms_[0]) +
                               pin_counts_.capacity() * sizeof(pin_counts_[0]);
  if (tenants_) metadata_bytes += tenants_->metadata_bytes();
  if (writes_) metadata_bytes += writes_->metadata_bytes();
  return {.capacity_blocks = pool_.capacity_blocks(),
          .free_blocks = pool_.free_blocks(),
          .leased_blocks = pool_.leased_blocks(),
          .cached_blocks = pool_.cached_blocks(),
          .promised_blocks = pool_.promised_blocks(),
          .pinned_blocks = pinned_blocks_,
          .block_bytes = memory_->stride(),
          .metadata_bytes = metadata_bytes,
          .admitted = admitted_,
          .prompt_tokens = prompt_tokens_,
          .matched_tokens = matched_tokens_,
          .copied_tokens = copied_tokens_,
          .evicted_blocks = evicted_blocks_,
          .expired_blocks = expired_blocks_,
          .compare_mismatches = index_.compare_mismatches(),
          .loaded_blocks = loaded_blocks_,
          .prefetched_useful_blocks = useful_blocks_,
          .prefetched_wasted_blocks = wasted_blocks_,
          .stored_blocks = stored,
          .unstored_blocks = unstored,
          .store_errors = errors,
          .tiers = std::move(tiers)};
}

bool KvCacheState::prefault() {
  constexpr std::size_t kPiece = std::size_t{2} << 20;  // a large page
  std::size_t used;
  {
    const std::lock_guard lock(mutex_);
    used = pool_.used_blocks() * memory_->stride();
  }
  const std::size_t begin = std::max(used, prefaulted_bytes_.load(std::memory_order_relaxed));
  const std::size_t end = used + std::min(memory_->bytes() - used, prefault_bytes_);
  if (begin >= end) return false;
  const std::size_t bytes = std::min(kPiece - begin % kPiece, end - begin);
  const bool backed = memory_->populate(begin, bytes);
  prefaulted_bytes_.store(backed ? begin + bytes : memory_->bytes(), std::memory_order_relaxed);
  return backed;
}

}  // namespace tiercel
