#include "kv/tier_loader.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "kv/kv_cache_state.h"

namespace tiercel {
namespace {

bool is_failure(StatusCode code) {
  return code != StatusCode::Ok && code != StatusCode::NotFound && code != StatusCode::Corruption;
}

}  // namespace

TierLoader::TierLoader(KvCacheState& cache, TierId tier, TierStore& store, TierMonitor& monitor,
                       std::function<bool()> is_readable)
    : cache_(cache),
      tier_(tier),
      store_(store),
      monitor_(monitor),
      is_readable_(std::move(is_readable)),
      reader_(cache.memory_, cache.layout_.block_bytes()) {}

bool TierLoader::load_batch(TierLoad& load) {
  return load.from_back ? load_batch_from_back(load) : load_batch_from_front(load);
}

bool TierLoader::load_batch_from_front(TierLoad& load) {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t end_block = load.parts[load.part].end_block;
  const std::size_t batch = monitor_.batch_blocks();
  std::size_t last = std::min(load.arrived + batch, end_block);
  const auto prefix = std::span(std::as_const(load.tokens)).first(last * block_tokens);
  const AdmitOptions options{.max_tokens = prefix.size(),
                             .scope = {.salt = load.salt, .adapter_id = load.adapter_id},
                             .partial_blocks = false,
                             .retention = load.retention};
  auto lease =
      load.prefetch ? cache_.admit_into_free(prefix, options, tier_) : cache_.admit(prefix, options, nullptr, tier_);
  if (!lease.ok()) return false;  // no room now
  // Asked after the admission: an erasure that was queued before it shows here, a later one when the lease would share.
  if (!is_readable_()) return false;
  const std::size_t first = lease->matched_tokens() / block_tokens;
  if (first < load.first_block) return false;  // what it goes on from was evicted
  last = std::min(last, first + batch);        // what had arrived may have been evicted
  std::size_t arrived = first;
  if (first < last) {
    if (!lease->grow(last * block_tokens).ok()) return false;
    for (const TierRead& read : read(load, first, last, lease->block_table().subspan(first))) {
      if (!read.status.ok()) break;
      lease->commit(read.tokens, /*share=*/true, read.copyable);
      ++arrived;
    }
  }
  load.arrived = arrived;
  return arrived == last && last < end_block;
}

bool TierLoader::load_batch_from_back(TierLoad& load) {
  TierLoad::Tail& tail = load.tail;
  const std::size_t batch = monitor_.batch_blocks();
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
  if (!is_readable_()) return false;
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

std::vector<TierRead> TierLoader::read(const TierLoad& load, std::size_t first, std::size_t last,
                                       std::span<const BlockId> into) {
  assert(first >= load.first_block && last - load.first_block < load.keys.size());
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  std::vector<TierRead> reads;
  reads.reserve(last - first);
  for (std::size_t i = first; i < last; ++i) {
    reads.push_back({.key = load.keys[i + 1 - load.first_block],
                     .parent = load.keys[i - load.first_block],
                     .tenant = load.tenant,
                     .adapter_id = load.adapter_id,
                     .tokens = std::span(load.tokens).subspan(i * block_tokens, block_tokens),
                     .bytes = {},
                     .block = into[i - first]});
  }
  monitor_.begin(reads.size());
  reader_.read(store_, reads);
  const auto count = [&](auto matches) {
    return static_cast<std::size_t>(
        std::ranges::count_if(reads, [&](const TierRead& read) { return matches(read.status.code()); }));
  };
  monitor_.end(count(is_failure) == 0, count([](StatusCode code) { return code == StatusCode::Ok; }),
               count([](StatusCode code) { return code == StatusCode::Corruption; }));
  return reads;
}

}  // namespace tiercel
