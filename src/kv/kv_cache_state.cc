#include "kv/kv_cache_state.h"

#include <algorithm>
#include <cassert>
#include <chrono>
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

std::uint64_t steady_ms() {
  using namespace std::chrono;
  return static_cast<std::uint64_t>(duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count());
}

Status out_of_memory(const char* what) {
  return Status::unavailable(fmt::format("the system gives no memory for {}", what));
}

}  // namespace

LeaseState::~LeaseState() {
  if (cache) cache->release(*this);
}

Result<KvCache> KvCacheState::open(const KvCacheOptions& options, const KvLayout& layout,
                                   const Fingerprint& fingerprint, std::span<const KvGroup> groups,
                                   KvCacheSeams seams) {
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
  if (options.tenant_quota_bytes > 0 && options.tenant_quota_bytes < stride) {
    return Status::invalid_argument(fmt::format("tenant_quota_bytes is {}; give at least the {} bytes of a block, or 0",
                                                options.tenant_quota_bytes, stride));
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i == 0 ? groups[i].window_tokens != 0 : groups[i].window_tokens == 1) {
      return Status::invalid_argument(
          fmt::format("KV group {} has a window of {} tokens; the first group is full (0), a window has at least 2", i,
                      groups[i].window_tokens));
    }
  }
  if (!options.tiers.empty() && groups.size() > 1) {
    return Status::invalid_argument(
        "tiers hold blocks of one KV group; open the cache with one group, or without tiers");
  }
  for (const auto& tier : options.tiers) {
    if (tier == nullptr) return Status::invalid_argument("a tier is null; leave it out, or give a store");
  }
  try {
    auto arena = BlockArena::reserve(blocks, block_bytes);
    if (!arena.ok()) return arena.status();
    auto policy = options.eviction ? options.eviction(blocks) : adaptive()(blocks);
    if (policy == nullptr) return Status::invalid_argument("the eviction option made no policy; return one");
    std::unique_ptr<TraceRecorder> recorder;
    if (!options.record_trace.empty()) {
      auto opened = TraceRecorder::open(options.record_trace, layout.block_tokens);
      if (!opened.ok()) return opened.status();
      recorder = *std::move(opened);
    }
    if (!seams.now_ms) seams.now_ms = steady_ms;
    const bool background_thread = seams.background_thread;
    auto state = std::make_shared<KvCacheState>(options, layout, fingerprint, groups, std::move(seams),
                                                *std::move(arena), blocks, std::move(policy), std::move(recorder));
    if (state->tiers_ && background_thread) TIERCEL_RETURN_IF_ERROR(state->tiers_->start());
    return KvCache(std::move(state));
  } catch (const std::bad_alloc&) {
    return out_of_memory("the index of the KV cache");
  }
}

KvCacheState::KvCacheState(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                           std::span<const KvGroup> groups, KvCacheSeams seams, BlockArena arena,
                           std::size_t capacity_blocks, std::unique_ptr<EvictionPolicy> policy,
                           std::unique_ptr<TraceRecorder> recorder)
    : layout_(layout),
      groups_(groups.empty() ? std::vector<KvGroup>(1) : std::vector<KvGroup>(groups.begin(), groups.end())),
      prefix_reuse_(options.prefix_reuse),
      fingerprint_(fingerprint),
      seams_(std::move(seams)),
      arena_(std::move(arena)),
      recorder_(std::move(recorder)),
      pool_(capacity_blocks),
      index_(capacity_blocks, layout.block_tokens, fingerprint, seams_.key_function, groups_.size()),
      order_(capacity_blocks, std::move(policy)) {
  if (options.tenant_quota_bytes > 0) {
    const bool limited = options.tenant_quota_bytes != SIZE_MAX;
    tenants_.emplace(capacity_blocks, limited ? options.tenant_quota_bytes / arena_.stride() : 0);
  }
  if (!options.tiers.empty() && prefix_reuse_) {
    loaded_unused_.resize(capacity_blocks);
    tiers_ = std::make_unique<TierManager>(*this, options.tiers);
  }
}

void KvCacheState::close() {
  if (tiers_) tiers_->stop();
}

std::size_t KvCacheState::blocks_for(std::size_t tokens) const {
  return tokens / layout_.block_tokens + (tokens % layout_.block_tokens != 0 ? 1 : 0);
}

std::size_t KvCacheState::first_block_in_reach(std::size_t group, std::size_t tokens) const {
  const std::size_t window = groups_[group].window_tokens;
  return window == 0 || tokens < window ? 0 : (tokens - (window - 1)) / layout_.block_tokens;
}

std::size_t KvCacheState::valid_blocks(std::span<const BlockId> path) const {
  std::size_t valid = path.size();
  // A group's gap in reach of a boundary rules out that one and all up to where the gap itself is the boundary.
  for (bool lowered = true; lowered;) {
    lowered = false;
    for (std::size_t group = 1; group < groups_.size(); ++group) {
      const std::size_t first = first_block_in_reach(group, valid * layout_.block_tokens);
      for (std::size_t i = first; i < valid; ++i) {
        if (index_.companion(path[i], group) != kNoBlock) continue;
        valid = i;
        lowered = true;
      }
    }
  }
  return valid;
}

KvCacheState::Match KvCacheState::match(std::span<const TokenId> prompt, const AdmitOptions& options,
                                        std::vector<BlockId>& path) {
  Match found;
  if (!prefix_reuse_) return found;
  const NodeId root = found.node = index_.find_root(options.scope.salt, options.scope.adapter_id);
  if (root == kNoNode) return found;

  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  const std::size_t block_tokens = layout_.block_tokens;
  auto rest = prompt.first(std::min(prompt.size(), options.max_matched_tokens));
  index_.walk(root, rest, [&](BlockId child) {
    if (is_expired(child, now)) return false;
    path.push_back(child);
    return true;
  });
  if (!path.empty()) found.node = path.back();
  rest = rest.subspan(path.size() * block_tokens);
  if (groups_.size() > 1) {
    path.resize(valid_blocks(path));
    found.node = path.empty() ? root : path.back();
  } else if (options.partial_blocks && !rest.empty()) {
    found.partial = index_.closest_child(found.node, rest);
    if (found.partial.block != kNoBlock && is_expired(found.partial.block, now)) found.partial = {};
  }
  found.blocks = path.size();
  found.tokens = found.blocks * block_tokens + found.partial.tokens;
  return found;
}

Status KvCacheState::check_claim(std::size_t new_blocks, std::size_t newly_held, TenantId tenant) const {
  // Holding a cached block takes it from those that could be evicted for somebody's promise.
  const std::size_t wanted = new_blocks + newly_held;
  if (tenants_ && !tenants_->may_claim(tenant, wanted)) {
    const std::size_t quota = tenants_->quota_blocks(tenant);
    return Status::rejected(
        fmt::format("{} more KV blocks would pass the tenant's quota of {}; wait for its other requests, end pins or "
                    "raise its quota",
                    wanted, quota));
  }
  if (wanted > pool_.claimable_blocks()) {
    return Status::unavailable(fmt::format("{} more KV blocks are needed; {} are neither held nor promised", wanted,
                                           pool_.claimable_blocks()));
  }
  return {};
}

Status KvCacheState::claim_for(const LeaseState& lease, std::size_t new_blocks, TenantId tenant) {
  for (;;) {
    std::size_t newly_held = 0;
    for (const BlockId block : lease.blocks) newly_held += pool_.references(block) == 0;
    for_each_companion_in_reach(lease.blocks, [&](BlockId block) { newly_held += pool_.references(block) == 0; });
    Status refused = check_claim(new_blocks, newly_held, tenant);
    if (refused.ok() || !tiers_ || !tiers_->abandon_writes()) return refused;
  }
}

Result<Lease> KvCacheState::admit(std::span<const TokenId> prompt, const AdmitOptions& options, Purpose purpose) {
  if (options.max_tokens < prompt.size()) {
    return Status::invalid_argument(
        fmt::format("max_tokens is {}; give at least the prompt's {} tokens", options.max_tokens, prompt.size()));
  }
  const std::size_t total_blocks = blocks_for(options.max_tokens);
  const std::size_t groups = groups_.size();
  if (total_blocks > pool_.capacity_blocks() / groups) {
    return Status::resource_exhausted(fmt::format(
        "a sequence of {} tokens needs {} KV blocks, and the cache has {}; lower max_tokens, or raise capacity_bytes "
        "to {} or more",
        options.max_tokens, total_blocks * groups, pool_.capacity_blocks(), total_blocks * groups * arena_.stride()));
  }
  try {
    // Not admitted until `cache` is set: leaving before gives nothing back, for nothing was taken.
    auto lease = std::make_unique<LeaseState>();
    lease->blocks.reserve(total_blocks);
    lease->windows.resize(groups - 1);
    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);
    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);
    lease->is_load = purpose == Purpose::Load;
    if (recorder_ && !lease->is_load) begin_trace(*lease, prompt, options);

    const std::lock_guard lock(mutex_);
    expire_pins(seams_.now_ms());
    prepare_expiry(options.retention);
    const Match found = match(prompt, options, lease->blocks);
    const std::size_t new_blocks = groups * (total_blocks - found.blocks);
    const std::size_t block_tokens = layout_.block_tokens;
    const std::size_t shared_end = std::min(prompt.size(), options.max_shared_tokens) / block_tokens * block_tokens;
    const std::size_t matched_end = found.blocks * block_tokens;
    if (prefix_reuse_ && shared_end > matched_end) {
      lease->announced.assign(prompt.begin() + static_cast<std::ptrdiff_t>(matched_end),
                              prompt.begin() + static_cast<std::ptrdiff_t>(shared_end));
    }
    if (tenants_) {
      lease->tenant = tenants_->join(options.scope.salt);
      Status refused;
      if (total_blocks * groups > tenants_->quota_blocks(lease->tenant)) {
        refused = Status::resource_exhausted(
            fmt::format("a sequence of {} tokens needs {} KV blocks, and its tenant may have {}; lower max_tokens, or "
                        "raise the tenant's quota",
                        options.max_tokens, total_blocks * groups, tenants_->quota_blocks(lease->tenant)));
      } else {
        refused = claim_for(*lease, new_blocks, lease->tenant);
      }
      if (!refused.ok()) {
        tenants_->leave(lease->tenant);
        return refused;
      }
    } else if (Status refused = claim_for(*lease, new_blocks, kNoTenant); !refused.ok()) {
      return refused;
    }
    if (prefix_reuse_) {
      try {
        lease->root = index_.hold_root(options.scope.salt, options.scope.adapter_id);
      } catch (const std::bad_alloc&) {
        if (tenants_) tenants_->leave(lease->tenant);
        throw;
      }
      lease->epoch = index_.epoch(lease->root);
    }

    // From here on nothing fails.
    lease->cache = shared_from_this();
    lease->shares = prefix_reuse_;
    lease->max_tokens = options.max_tokens;
    lease->matched_tokens = lease->committed_tokens = found.tokens;
    lease->retention = options.retention;
    lease->first_announced = lease->matched_blocks = found.blocks;
    lease->prompt_blocks = prompt.size() / block_tokens;
    lease->frontier.owner = lease.get();
    for (const BlockId block : lease->blocks) hold(block);
    for (std::size_t group = 1; group < groups; ++group) {
      std::vector<BlockId>& window = lease->windows[group - 1];
      window.assign(found.blocks, kNoBlock);
      for (std::size_t i = first_block_in_reach(group, found.tokens); i < found.blocks; ++i) {
        window[i] = index_.companion(lease->blocks[i], group);
        hold(window[i]);
      }
    }
    pool_.promise(new_blocks);
    if (tenants_) tenants_->on_promised(lease->tenant, new_blocks);
    lease->promised_blocks = new_blocks;
    if (found.partial.block != kNoBlock) {
      // Used now, so worth keeping. If it is still the one that goes for the copy, the copy is in place: an evicted
      // block keeps its bytes until its next owner writes.
      use(found.partial.block, options.retention, seams_.now_ms());
      const BlockId own = take_promised_block(lease->tenant);
      --lease->promised_blocks;
      copy_leading_tokens(found.partial.block, own, found.partial.tokens);
      lease->blocks.push_back(own);
      const auto copied = prompt.subspan(matched_end, found.partial.tokens);
      lease->open_tokens.assign(copied.begin(), copied.end());
    }
    announce_next_block(*lease);
    if (lease->is_load) return Lease(std::move(lease));
    if (tiers_) {
      for (std::size_t i = 0; i < found.blocks; ++i) note_use_of_loaded(lease->blocks[i]);
      if (found.partial.block != kNoBlock) note_use_of_loaded(found.partial.block);
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

Result<Lease> KvCacheState::fork(const LeaseState& source, std::size_t max_tokens) {
  const std::size_t block_tokens = layout_.block_tokens;
  const std::size_t total_blocks = blocks_for(max_tokens);
  const std::size_t groups = groups_.size();
  if (max_tokens < source.committed_tokens) {
    return Status::invalid_argument(fmt::format("max_tokens is {}; give at least the {} tokens that are forked",
                                                max_tokens, source.committed_tokens));
  }
  if (total_blocks > pool_.capacity_blocks() / groups) {
    return Status::resource_exhausted(
        fmt::format("a sequence of {} tokens needs {} KV blocks, and the cache has {}; lower max_tokens", max_tokens,
                    total_blocks * groups, pool_.capacity_blocks()));
  }
  try {
    auto lease = std::make_unique<LeaseState>();
    lease->blocks.reserve(total_blocks);
    lease->windows.resize(groups - 1);
    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);
    lease->open_tokens.reserve(prefix_reuse_ ? block_tokens : 0);
    lease->open_tokens.assign(source.open_tokens.begin(), source.open_tokens.end());

    const std::lock_guard lock(mutex_);
    const std::size_t full_blocks = source.committed_tokens / block_tokens;
    const std::size_t begun_tokens = source.committed_tokens % block_tokens;
    const std::size_t new_blocks = groups * (total_blocks - full_blocks);
    if (tenants_ && total_blocks * groups > tenants_->quota_blocks(source.tenant)) {
      return Status::resource_exhausted(
          fmt::format("a sequence of {} tokens needs {} KV blocks, and its tenant may have {}", max_tokens,
                      total_blocks * groups, tenants_->quota_blocks(source.tenant)));
    }
    if (Status refused = check_claim(new_blocks, 0, source.tenant); !refused.ok()) return refused;

    // From here on nothing fails.
    lease->cache = shared_from_this();
    lease->max_tokens = max_tokens;
    lease->matched_tokens = lease->committed_tokens = source.committed_tokens;
    lease->retention = source.retention;
    lease->shares = source.shares;
    lease->epoch = source.epoch;
    lease->root = source.root;
    if (lease->root != kNoNode) index_.hold_root_again(lease->root);
    lease->tenant = source.tenant;
    if (tenants_) tenants_->join_again(lease->tenant);
    lease->matched_blocks = source.matched_blocks;
    lease->prompt_blocks = source.prompt_blocks;
    lease->added_blocks = source.added_blocks;
    lease->frontier.owner = lease.get();
    pool_.promise(new_blocks);
    if (tenants_) tenants_->on_promised(lease->tenant, new_blocks);
    lease->promised_blocks = new_blocks;
    for (std::size_t group = 0; group < groups; ++group) {
      const std::vector<BlockId>& from = group == 0 ? source.blocks : source.windows[group - 1];
      std::vector<BlockId>& table = group == 0 ? lease->blocks : lease->windows[group - 1];
      table.assign(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(full_blocks));
      for (const BlockId block : table) {
        if (block != kNoBlock) hold(block);
      }
      if (begun_tokens == 0) continue;
      table.push_back(take_promised_block(lease->tenant));
      --lease->promised_blocks;
      copy_leading_tokens(from[full_blocks], table.back(), begun_tokens);
    }
    ++admitted_;
    return Lease(std::move(lease));
  } catch (const std::bad_alloc&) {
    return out_of_memory("a lease");
  }
}

std::size_t KvCacheState::lookup(std::span<const TokenId> prompt, const AdmitOptions& options) try {
  std::vector<BlockId> path;
  path.reserve(prompt.size() / layout_.block_tokens);
  const std::lock_guard lock(mutex_);
  return match(prompt, options, path).tokens;
} catch (const std::bad_alloc&) {
  return 0;
}

Status KvCacheState::grow(LeaseState& lease, std::size_t tokens) {
  if (tokens > lease.max_tokens) {
    return Status::resource_exhausted(
        fmt::format("{} tokens are beyond the max_tokens of this lease, {}", tokens, lease.max_tokens));
  }
  const std::size_t wanted = blocks_for(tokens);
  if (wanted <= lease.blocks.size()) return {};
  const std::lock_guard lock(mutex_);
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    std::vector<BlockId>& table = group == 0 ? lease.blocks : lease.windows[group - 1];
    for (; table.size() < wanted; --lease.promised_blocks) table.push_back(take_promised_block(lease.tenant));
  }
  return {};
}

void KvCacheState::commit(LeaseState& lease, std::span<const TokenId> tokens, bool share) {
  assert(blocks_for(lease.committed_tokens + tokens.size()) <= lease.blocks.size());
  // The lock is taken only when a block becomes full, not for every token of decoding.
  std::unique_lock lock(mutex_, std::defer_lock);
  if (!share && !tokens.empty() && lease.shares) {
    lock.lock();
    lease.shares = false;
    computing_.remove(lease.frontier);
  }
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
  if (groups_.size() > 1) {
    if (!lock.owns_lock()) lock.lock();
    give_up_out_of_reach(lease);
  }
}

void KvCacheState::share_full_block(LeaseState& lease, std::size_t position) {
  const NodeId parent = position == 0 ? lease.root : lease.blocks[position - 1];
  const bool was_announced =
      lease.frontier.parent != kNoNode && std::ranges::equal(lease.frontier.tokens, lease.open_tokens);
  const ContentKey announced_key = lease.frontier.key;
  computing_.remove(lease.frontier);
  if (lease.epoch != index_.epoch(lease.root) || (position > 0 && !index_.contains(parent))) {
    lease.shares = false;  // what comes before is forgotten
    return;
  }
  const ContentKey key = was_announced ? announced_key : index_.key_after(parent, lease.open_tokens);
  BlockId& own = lease.blocks[position];
  const BlockId equal = index_.find_child(parent, key, lease.open_tokens);
  BlockOrigin origin{.content = key.low,
                     .parent = position == 0 ? kNoBlock : parent,
                     .starts_segment = !lease.added_blocks,
                     .segment_blocks = static_cast<std::uint32_t>(
                         position < lease.prompt_blocks ? lease.prompt_blocks - lease.matched_blocks : 0)};
  if (equal == kNoBlock) {
    if (position > 0 && index_.is_leaf(parent)) assert(pool_.references(parent) > 0);
    index_.insert(parent, key, lease.open_tokens, own);
    order_.on_insert(own, origin);
    if (!expires_ms_.empty()) mark_unused(own);
    lease.added_blocks = true;
    if (lease.is_load) {
      loaded_unused_[own] = true;
      ++loaded_blocks_;
    }
  } else {
    hold(equal);
    drop(std::exchange(own, equal));
  }
  if (groups_.size() > 1) share_companions(lease, position, origin);
  arrive(key, parent, lease.open_tokens, own);
  if (was_announced) {
    announce_next_block(lease);
  } else {
    lease.announced.clear();  // its runner went another way
  }
}

void KvCacheState::share_companions(LeaseState& lease, std::size_t position, const BlockOrigin& origin) {
  const BlockId owner = lease.blocks[position];
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    BlockId& own = lease.windows[group - 1][position];
    const BlockId equal = index_.companion(owner, group);
    if (equal == kNoBlock) {
      index_.attach(owner, group, own);
      BlockOrigin with_group = origin;
      with_group.content ^= group;
      order_.on_insert(own, with_group);
      for (int i = 0; i < order_.expectations(owner); ++i) order_.add_expectation(own);
      if (!expires_ms_.empty()) mark_unused(own);
    } else if (equal != own) {
      hold(equal);
      drop(std::exchange(own, equal));
    }
  }
}

void KvCacheState::give_up_out_of_reach(LeaseState& lease) {
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    std::vector<BlockId>& window = lease.windows[group - 1];
    for (std::size_t i = first_block_in_reach(group, lease.committed_tokens); i-- > 0;) {
      if (window[i] == kNoBlock) break;  // and all before it
      drop(std::exchange(window[i], kNoBlock));
    }
  }
}

void KvCacheState::announce_next_block(LeaseState& lease) {
  const std::size_t position = lease.committed_tokens / layout_.block_tokens;
  const std::size_t first = (position - lease.first_announced) * layout_.block_tokens;
  if (!lease.shares || first + layout_.block_tokens > lease.announced.size()) return;
  lease.frontier.parent = position == 0 ? lease.root : lease.blocks[position - 1];
  lease.frontier.tokens = std::span(lease.announced).subspan(first, layout_.block_tokens);
  lease.frontier.key = index_.key_after(lease.frontier.parent, lease.frontier.tokens);
  computing_.add(lease.frontier);
}

void KvCacheState::release(LeaseState& lease) {
  std::unique_lock lock(mutex_);
  computing_.remove(lease.frontier);
  if (lease.trace) {
    for (std::size_t i = lease.prompt_blocks; i < lease.blocks.size() && index_.contains(lease.blocks[i]); ++i) {
      lease.trace->output_ids.push_back(trace_id(index_.key_of(lease.blocks[i])));
    }
  }
  // What will not come back, or must not after its time, has no use for a tier.
  const bool lasting = lease.retention.ttl_ms == 0 && lease.retention.priority != RetentionPriority::Low;
  if (tiers_ && lease.added_blocks && !lease.is_load && lasting) tiers_->offer(lease.blocks);
  const std::uint64_t now = expires_ms_.empty() ? 0 : seams_.now_ms();
  // Deepest first: leaves become evictable before their parents, and count as used before them.
  while (!lease.blocks.empty()) {
    for (std::size_t group = groups_.size(); group-- > 0;) {
      std::vector<BlockId>& table = group == 0 ? lease.blocks : lease.windows[group - 1];
      const BlockId block = table.back();
      table.pop_back();
      if (block == kNoBlock) continue;
      // A load that found a block did so for a request, which will use it.
      const bool used = !lease.is_load || lease.blocks.size() >= lease.matched_blocks;
      if (used && index_.contains(block)) use(block, lease.retention, now);
      drop(block);
    }
  }
  pool_.return_promises(lease.promised_blocks);
  if (tenants_) {
    tenants_->on_promise_returned(lease.tenant, lease.promised_blocks);
    tenants_->leave(lease.tenant);
  }
  if (lease.root != kNoNode) index_.drop_root(lease.root);
  lock.unlock();
  if (lease.trace) end_trace(lease);
}

void KvCacheState::begin_trace(LeaseState& lease, std::span<const TokenId> prompt, const AdmitOptions& options) const {
  lease.trace = std::make_unique<LeaseState::TraceNote>();
  lease.trace->timestamp_ms = recorder_->elapsed_ms();
  lease.trace->input_length = prompt.size();
  lease.trace->prompt_ids.reserve(blocks_for(prompt.size()));
  lease.trace->output_ids.reserve(blocks_for(options.max_tokens));
  ContentKey key = root_key(seams_.key_function, fingerprint_, options.scope.salt, options.scope.adapter_id);
  while (!prompt.empty()) {
    const auto block = prompt.first(std::min<std::size_t>(prompt.size(), layout_.block_tokens));
    key = child_key(seams_.key_function, key, block);
    lease.trace->prompt_ids.push_back(trace_id(key));
    prompt = prompt.subspan(block.size());
  }
}

void KvCacheState::end_trace(const LeaseState& lease) const {
  const LeaseState::TraceNote& note = *lease.trace;
  recorder_->record({.timestamp_ms = note.timestamp_ms,
                     .input_length = note.input_length,
                     .output_length = lease.committed_tokens - std::min(lease.committed_tokens, note.input_length),
                     .prompt_ids = note.prompt_ids,
                     .output_ids = note.output_ids});
}

void KvCacheState::note_use_of_loaded(BlockId block) {
  if (!loaded_unused_[block]) return;
  loaded_unused_[block] = false;
  ++useful_blocks_;
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
  std::size_t metadata_bytes = pool_.metadata_bytes() + index_.metadata_bytes() + order_.metadata_bytes() +
                               expires_ms_.capacity() * sizeof(expires_ms_[0]) +
                               pin_counts_.capacity() * sizeof(pin_counts_[0]);
  if (tenants_) metadata_bytes += tenants_->metadata_bytes();
  const TierManager::Counts tiers = tiers_ ? tiers_->counts() : TierManager::Counts{};
  return {.capacity_blocks = pool_.capacity_blocks(),
          .free_blocks = pool_.free_blocks(),
          .leased_blocks = pool_.leased_blocks(),
          .cached_blocks = pool_.cached_blocks(),
          .promised_blocks = pool_.promised_blocks(),
          .pinned_blocks = pinned_blocks_,
          .block_bytes = arena_.stride(),
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
          .stored_blocks = tiers.stored_blocks,
          .unstored_blocks = tiers.unstored_blocks,
          .store_errors = tiers.store_errors};
}

}  // namespace tiercel
