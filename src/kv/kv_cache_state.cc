#include "kv/kv_cache_state.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>
#include <utility>

#include <fmt/format.h>

namespace tiercel {
namespace {

// Bytes of a block of `layout`, or 0 where a field is 0 or the product overflows.
std::size_t checked_block_bytes(const KvLayout& layout) {
  std::size_t bytes = 2 * size_of(layout.dtype);
  for (const std::size_t factor : {layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens}) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) return 0;
  }
  return bytes;
}

Status out_of_memory(const char* what) {
  return Status::unavailable(fmt::format("the system gives no memory for {}", what));
}

}  // namespace

LeaseState::~LeaseState() {
  if (cache) cache->release(*this);
}

Result<KvCache> KvCacheState::open(const KvCacheOptions& options, const KvLayout& layout,
                                   const Fingerprint& fingerprint, std::unique_ptr<EvictionPolicy> policy,
                                   KeyFunction key_function) {
  const std::size_t block_bytes = checked_block_bytes(layout);
  const std::size_t stride = BlockArena::stride_of(block_bytes);
  if (stride == 0) {
    return Status::invalid_argument(fmt::format(
        "the KV layout is {} layers, {} KV heads, {} values per head and {} tokens per block; give at least "
        "1 of each, and blocks that fit the address space",
        layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens));
  }
  const std::size_t blocks = options.capacity_bytes / stride;
  if (blocks == 0 || blocks > PrefixIndex::kMostBlocks) {
    return Status::invalid_argument(
        fmt::format("capacity_bytes is {}, which holds {} KV blocks of {} bytes; give room for 1 to {} blocks",
                    options.capacity_bytes, blocks, stride, PrefixIndex::kMostBlocks));
  }
  try {
    auto arena = BlockArena::reserve(blocks, block_bytes);
    if (!arena.ok()) return arena.status();
    if (policy == nullptr) policy = make_lru_policy(blocks);
    return KvCache(std::make_shared<KvCacheState>(layout, fingerprint, options.prefix_reuse, *std::move(arena), blocks,
                                                  std::move(policy), key_function));
  } catch (const std::bad_alloc&) {
    return out_of_memory("the index of the KV cache");
  }
}

KvCacheState::KvCacheState(const KvLayout& layout, const Fingerprint& fingerprint, bool prefix_reuse, BlockArena arena,
                           std::size_t capacity_blocks, std::unique_ptr<EvictionPolicy> policy,
                           KeyFunction key_function)
    : layout_(layout),
      prefix_reuse_(prefix_reuse),
      arena_(std::move(arena)),
      pool_(capacity_blocks),
      index_(capacity_blocks, layout.block_tokens, fingerprint, key_function),
      policy_(std::move(policy)) {}

std::size_t KvCacheState::blocks_for(std::size_t tokens) const {
  return tokens / layout_.block_tokens + (tokens % layout_.block_tokens != 0 ? 1 : 0);
}

KvCacheState::Match KvCacheState::match(std::span<const TokenId> prompt, const AdmitOptions& options,
                                        std::vector<BlockId>* path) {
  Match found;
  if (!prefix_reuse_) return found;
  found.node = index_.find_root(options.salt, options.adapter_id);
  if (found.node == kNoNode) return found;

  const std::size_t block_tokens = layout_.block_tokens;
  auto rest = prompt.first(std::min(prompt.size(), options.max_matched_tokens));
  while (rest.size() >= block_tokens) {
    const BlockId child = index_.find_child(found.node, rest.first(block_tokens));
    if (child == kNoBlock) break;
    if (path != nullptr) path->push_back(child);
    found.node = child;
    ++found.blocks;
    rest = rest.subspan(block_tokens);
  }
  if (options.partial_blocks && !rest.empty()) found.partial = index_.closest_child(found.node, rest);
  found.tokens = found.blocks * block_tokens + found.partial.tokens;
  return found;
}

Result<Lease> KvCacheState::admit(std::span<const TokenId> prompt, const AdmitOptions& options) {
  if (options.max_tokens < prompt.size()) {
    return Status::invalid_argument(
        fmt::format("max_tokens is {}; give at least the prompt's {} tokens", options.max_tokens, prompt.size()));
  }
  const std::size_t total_blocks = blocks_for(options.max_tokens);
  if (total_blocks > pool_.capacity_blocks()) {
    return Status::resource_exhausted(fmt::format(
        "a sequence of {} tokens needs {} KV blocks, and the cache has {}; lower max_tokens, or raise capacity_bytes "
        "to {} or more",
        options.max_tokens, total_blocks, pool_.capacity_blocks(), total_blocks * layout_.block_bytes()));
  }
  try {
    // Not admitted until `cache` is set: leaving before gives nothing back, for nothing was taken.
    auto lease = std::make_unique<LeaseState>();
    lease->blocks.reserve(total_blocks);
    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);

    const std::lock_guard lock(mutex_);
    const Match found = match(prompt, options, &lease->blocks);
    const std::size_t new_blocks = total_blocks - found.blocks;
    // Holding a cached block takes it from those that could be evicted for somebody's promise.
    const auto newly_held = static_cast<std::size_t>(
        std::ranges::count_if(lease->blocks, [&](BlockId block) { return pool_.references(block) == 0; }));
    if (new_blocks + newly_held > pool_.claimable_blocks()) {
      return Status::unavailable(fmt::format("{} more KV blocks are needed; {} are neither held nor promised",
                                             new_blocks + newly_held, pool_.claimable_blocks()));
    }
    if (prefix_reuse_) lease->root = index_.hold_root(options.salt, options.adapter_id);

    // From here on nothing fails.
    lease->cache = shared_from_this();
    lease->shares = prefix_reuse_;
    lease->epoch = epoch_;
    lease->total_blocks = total_blocks;
    lease->max_tokens = options.max_tokens;
    lease->matched_tokens = lease->committed_tokens = found.tokens;
    for (const BlockId block : lease->blocks) hold(block);
    pool_.promise(new_blocks);
    if (found.partial.block != kNoBlock) {
      // Used now, so worth keeping. If a policy still gives up just this block for the copy, the copy is in place: an
      // evicted block keeps its bytes until its next owner writes.
      policy_->on_use(found.partial.block);
      const BlockId own = take_promised_block();
      copy_leading_tokens(found.partial.block, own, found.partial.tokens);
      lease->blocks.push_back(own);
      const auto copied = prompt.subspan(found.blocks * layout_.block_tokens, found.partial.tokens);
      lease->open_tokens.assign(copied.begin(), copied.end());
    }
    ++admitted_;
    prompt_tokens_ += prompt.size();
    matched_tokens_ += found.tokens;
    copied_tokens_ += found.partial.tokens;
    return Lease(std::move(lease));
  } catch (const std::bad_alloc&) {
    return out_of_memory("a lease");
  }
}

std::size_t KvCacheState::lookup(std::span<const TokenId> prompt, const AdmitOptions& options) {
  const std::lock_guard lock(mutex_);
  return match(prompt, options, nullptr).tokens;
}

Status KvCacheState::grow(LeaseState& lease, std::size_t tokens) {
  if (tokens > lease.max_tokens) {
    return Status::resource_exhausted(
        fmt::format("{} tokens are beyond the max_tokens of this lease, {}", tokens, lease.max_tokens));
  }
  const std::size_t wanted = blocks_for(tokens);
  if (wanted <= lease.blocks.size()) return {};
  const std::lock_guard lock(mutex_);
  while (lease.blocks.size() < wanted) lease.blocks.push_back(take_promised_block());
  return {};
}

void KvCacheState::commit(LeaseState& lease, std::span<const TokenId> tokens, bool share) {
  assert(blocks_for(lease.committed_tokens + tokens.size()) <= lease.blocks.size());
  if (!share && !tokens.empty()) lease.shares = false;
  // The lock is taken only when a block becomes full, not for every token of decoding.
  std::unique_lock lock(mutex_, std::defer_lock);
  while (lease.shares && !tokens.empty()) {
    const auto taken = tokens.first(std::min(tokens.size(), layout_.block_tokens - lease.open_tokens.size()));
    lease.open_tokens.insert(lease.open_tokens.end(), taken.begin(), taken.end());
    lease.committed_tokens += taken.size();
    tokens = tokens.subspan(taken.size());
    if (lease.open_tokens.size() < layout_.block_tokens) break;
    if (!lock.owns_lock()) lock.lock();
    share_full_block(lease, lease.committed_tokens / layout_.block_tokens - 1);
    lease.open_tokens.clear();
  }
  lease.committed_tokens += tokens.size();
}

void KvCacheState::share_full_block(LeaseState& lease, std::size_t position) {
  if (lease.epoch != epoch_) {
    lease.shares = false;  // its earlier blocks are no longer in the index
    return;
  }
  const NodeId parent = position == 0 ? lease.root : lease.blocks[position - 1];
  BlockId& own = lease.blocks[position];
  const BlockId equal = index_.find_child(parent, lease.open_tokens);
  if (equal == kNoBlock) {
    index_.insert(parent, lease.open_tokens, own);
  } else {
    hold(equal);
    drop(std::exchange(own, equal));
  }
}

void KvCacheState::release(LeaseState& lease) {
  const std::lock_guard lock(mutex_);
  // Deepest first: leaves become evictable before their parents, and count as used before them.
  while (!lease.blocks.empty()) {
    const BlockId block = lease.blocks.back();
    lease.blocks.pop_back();
    --lease.total_blocks;
    if (index_.contains(block)) policy_->on_use(block);
    drop(block);
  }
  pool_.return_promises(lease.total_blocks);
  if (lease.root != kNoNode) index_.drop_root(lease.root);
}

std::size_t KvCacheState::invalidate_all() {
  const std::lock_guard lock(mutex_);
  ++epoch_;
  const std::size_t forgotten = index_.size();
  for (BlockId block = 0; block < pool_.capacity_blocks(); ++block) {
    if (!index_.contains(block)) continue;
    policy_->on_remove(block);
    if (pool_.references(block) == 0) pool_.give_back(block);
  }
  index_.clear();
  return forgotten;
}

void KvCacheState::hold(BlockId block) {
  if (is_evictable(block)) policy_->on_held(block);
  pool_.add_reference(block);
}

void KvCacheState::drop(BlockId block) {
  if (!pool_.drop_reference(block)) return;
  if (!index_.contains(block)) {
    pool_.give_back(block);
  } else if (index_.is_leaf(block)) {
    policy_->on_evictable(block);
  }
}

bool KvCacheState::is_evictable(BlockId block) const {
  return block < pool_.capacity_blocks() && index_.contains(block) && index_.is_leaf(block) &&
         pool_.references(block) == 0;
}

BlockId KvCacheState::take_promised_block() {
  if (pool_.free_blocks() == 0) evict_one();
  return pool_.take_promised();
}

void KvCacheState::evict_one() {
  BlockId victim = policy_->victim();
  if (!is_evictable(victim)) {
    // A policy of the user's that has lost count may evict badly, but must not break a promise.
    for (victim = 0; !is_evictable(victim); ++victim) assert(victim < pool_.capacity_blocks());
  }
  const NodeId parent = index_.remove_leaf(victim);
  policy_->on_remove(victim);
  if (!PrefixIndex::is_root(parent) && is_evictable(parent)) policy_->on_evictable(parent);
  pool_.give_back(victim);
  ++evicted_blocks_;
}

void KvCacheState::copy_leading_tokens(BlockId from, BlockId to, std::size_t tokens) {
  if (from == to) return;
  const std::size_t row_bytes = layout_.head_stride() * size_of(layout_.dtype);
  const std::size_t used_bytes = tokens * layout_.head_dim * size_of(layout_.dtype);
  const std::byte* source = arena_.block(from);
  std::byte* target = arena_.block(to);
  for (std::size_t row = 0; row < std::size_t{2} * layout_.layers * layout_.kv_heads; ++row) {
    std::memcpy(target + row * row_bytes, source + row * row_bytes, used_bytes);
  }
}

KvCacheStats KvCacheState::stats() const {
  const std::lock_guard lock(mutex_);
  return {.capacity_blocks = pool_.capacity_blocks(),
          .free_blocks = pool_.free_blocks(),
          .leased_blocks = pool_.leased_blocks(),
          .cached_blocks = pool_.cached_blocks(),
          .promised_blocks = pool_.promised_blocks(),
          .block_bytes = arena_.stride(),
          .metadata_bytes = pool_.metadata_bytes() + index_.metadata_bytes(),
          .admitted = admitted_,
          .prompt_tokens = prompt_tokens_,
          .matched_tokens = matched_tokens_,
          .copied_tokens = copied_tokens_,
          .evicted_blocks = evicted_blocks_,
          .compare_mismatches = index_.compare_mismatches()};
}

std::vector<std::uint32_t> KvCacheState::references() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> counts(pool_.capacity_blocks());
  for (BlockId block = 0; block < counts.size(); ++block) {
    if (!pool_.is_free(block)) counts[block] = pool_.references(block);
  }
  return counts;
}

std::size_t KvCacheState::roots() const {
  const std::lock_guard lock(mutex_);
  return index_.roots();
}

std::string KvCacheState::audit() const {
  const std::lock_guard lock(mutex_);
  std::size_t free = 0, leased = 0, cached = 0, indexed = 0, evictable = 0;
  for (BlockId block = 0; block < pool_.capacity_blocks(); ++block) {
    const bool findable = index_.contains(block);
    indexed += findable;
    if (pool_.is_free(block)) {
      ++free;
      if (findable) return fmt::format("free block {} can be found", block);
      continue;
    }
    const bool held = pool_.references(block) > 0;
    ++(held ? leased : cached);
    if (!held && !findable) return fmt::format("block {} is lost: not free, not held, not findable", block);
    evictable += is_evictable(block);
    if (!findable || PrefixIndex::is_root(index_.parent(block))) continue;
    const BlockId parent = index_.parent(block);
    if (!index_.contains(parent)) return fmt::format("block {} follows block {}, which left the index", block, parent);
    if (index_.is_leaf(parent)) return fmt::format("block {} is not among the children of {}", block, parent);
    if (held && pool_.references(parent) == 0)
      return fmt::format("block {} is held, its parent {} is not", block, parent);
  }
  if (free != pool_.free_blocks() || leased != pool_.leased_blocks() || cached != pool_.cached_blocks()) {
    return fmt::format("counted {} free, {} leased, {} cached; the pool says {}, {}, {}", free, leased, cached,
                       pool_.free_blocks(), pool_.leased_blocks(), pool_.cached_blocks());
  }
  if (indexed != index_.size()) return fmt::format("counted {} indexed blocks, not {}", indexed, index_.size());
  if (pool_.promised_blocks() > free + cached) {
    return fmt::format("{} blocks are promised, {} free and {} cached", pool_.promised_blocks(), free, cached);
  }
  const BlockId victim = policy_->victim();
  if (evictable == 0 ? victim != kNoBlock : !is_evictable(victim)) {
    return fmt::format("{} blocks are evictable, the policy names {}", evictable, victim);
  }
  return {};
}

}  // namespace tiercel
