#include "kv/tier_manager.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "kv/block_key.h"
#include "kv/kv_cache_state.h"

namespace tiercel {
namespace {

// The least a split must take off: several short steps cost more than is known of a long one.
constexpr double kWorthSplitting = 0.9;

}  // namespace

TierManager::TierManager(KvCacheState& cache, const std::vector<std::shared_ptr<TierStore>>& stores,
                         const TierWorkerOptions& options)
    : cache_(cache), now_s_(options.now_s) {
  assert(!stores.empty() && stores.size() <= kMostTiers);
  workers_.reserve(stores.size());
  for (const auto& store : stores) {
    workers_.push_back(std::make_shared<TierWorker>(cache, static_cast<TierId>(workers_.size()), store, options,
                                                    [this](auto load) { hand_over(std::move(load)); }));
  }
}

Status TierManager::start() {
  for (const auto& worker : workers_) TIERCEL_RETURN_IF_ERROR(worker->start());
  return {};
}

void TierManager::stop() {
  for (const auto& worker : workers_) worker->stop();
}

bool TierManager::run_one() {
  return std::ranges::any_of(workers_, [](const auto& worker) { return worker->run_one(); });
}

// ---- Loads

TierManager::Plan TierManager::look_up(std::span<const TokenId> tokens, std::size_t hot_blocks,
                                       const ContentKey& hot_key) {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::size_t blocks = tokens.size() / block_tokens;
  Plan plan{.hot_blocks = hot_blocks, .keys = {}, .parts = {}};
  plan.keys.reserve(blocks - hot_blocks + 1);
  plan.keys.push_back(block_key(hot_key));
  ContentKey key = hot_key;
  for (std::size_t i = hot_blocks; i < blocks; ++i) {
    key = child_key(cache_.seams_.key_function, key, tokens.subspan(i * block_tokens, block_tokens));
    plan.keys.push_back(block_key(key));
  }
  plan.found_blocks = hot_blocks;
  const auto unknown = [&] { return std::span<const BlockKey>(plan.keys).subspan(1 + plan.found_blocks - hot_blocks); };
  for (bool more = true; more && !unknown().empty();) {
    more = false;
    for (std::size_t tier = 0; tier < workers_.size(); ++tier) {
      const std::size_t here = workers_[tier]->leading(unknown());
      if (here == 0) continue;
      plan.found_blocks += here;
      plan.parts.push_back({.tier = static_cast<TierId>(tier), .end_block = plan.found_blocks});
      more = true;
    }
  }
  return plan;
}

std::shared_ptr<TierLoad> TierManager::make_load(std::span<const TokenId> tokens, const AdmitOptions& options,
                                                 Plan plan) const {
  const auto wanted = tokens.first(plan.parts.back().end_block * cache_.layout_.block_tokens);
  auto load = std::make_shared<TierLoad>();
  load->salt = options.scope.salt;
  load->tenant = cache_.tenant_name(options.scope.salt);
  load->adapter_id = options.scope.adapter_id;
  load->retention = options.retention;
  load->tokens.assign(wanted.begin(), wanted.end());
  load->first_block = plan.hot_blocks;
  load->arrived = plan.hot_blocks;
  load->keys = std::move(plan.keys);
  load->parts = std::move(plan.parts);
  return load;
}

std::shared_ptr<TierLoad> TierManager::expect(std::span<const TokenId> tokens, const AdmitOptions& options,
                                              std::size_t hot_blocks, const ContentKey& hot_key) try {
  Plan plan = look_up(tokens, hot_blocks, hot_key);
  learn(tokens, options.scope, plan);
  if (plan.parts.empty()) return nullptr;
  const std::vector<TierLoad::Part> parts = plan.parts;
  const auto load = make_load(tokens, options, std::move(plan));

  // The leading parts whose loading, and computing of what follows, takes least; or splitting the last of them.
  std::size_t best_parts = 0, split_parts = 0;
  double split_s = std::numeric_limits<double>::infinity();
  double loading_s = 0, best_s = seconds_to_compute(hot_blocks, parts.back().end_block);
  const bool known = best_s > 0;
  std::size_t first = hot_blocks;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (const double seconds = loading_s + seconds_to_split(*load, i, first); options.splits && seconds < split_s) {
      split_s = seconds;
      split_parts = i + 1;
    }
    loading_s += workers_[parts[i].tier]->seconds_to_load(*load, first, parts[i].end_block);
    first = parts[i].end_block;
    const double seconds = loading_s + seconds_to_compute(first, parts.back().end_block);
    if (known && seconds >= best_s) continue;
    best_s = seconds;
    best_parts = i + 1;
  }
  load->splits = options.splits && known;
  if (load->splits && split_s < kWorthSplitting * best_s) {
    best_parts = split_parts;
    load->waits = split_parts > 1;  // for the parts before
  } else if (best_parts == 0) {
    // Too slow, as far as is known. A few blocks of it, for which nobody waits, show whether it still is.
    if (!workers_[parts.front().tier]->monitor().is_stale()) return nullptr;
    load->waits = load->splits = false;
    load->parts.front().end_block = std::min(parts.front().end_block, hot_blocks + kTierBatchBlocks);
    best_parts = 1;
  }
  load->parts.resize(best_parts);
  load->tokens.resize(load->parts.back().end_block * cache_.layout_.block_tokens);
  if (load->splits && !load->waits) return load;  // from the back, once it has a lease
  return queue(load) ? load : nullptr;
} catch (const std::bad_alloc&) {
  return nullptr;  // computed instead
}

bool TierManager::queue(const std::shared_ptr<TierLoad>& load) {
  return workers_[load->parts[load->part].tier]->load(load);
}

void TierManager::hand_over(std::shared_ptr<TierLoad> load) {
  try {
    if (queue(load)) return;
  } catch (const std::bad_alloc&) {
  }
  load->ended = true;
}

double TierManager::seconds_to_compute(std::size_t first_block, std::size_t end_block) const {
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const std::lock_guard lock(mutex_);
  return prefill_cost_.seconds_for((end_block - first_block) * block_tokens, first_block * block_tokens);
}

double TierManager::seconds_to_load(const TierLoad& load) {
  double seconds = 0;
  std::size_t first = load.arrived;
  for (std::size_t i = load.part; i < load.parts.size(); ++i) {
    const std::size_t end = load.parts[i].end_block;
    seconds += workers_[load.parts[i].tier]->seconds_to_load(load, first, end);
    first = std::max(first, end);
  }
  return seconds;
}

bool TierManager::is_pending(const std::shared_ptr<TierLoad>& load) {
  if (!load || load->ended || !load->waits) return false;
  const std::size_t arrived = load->arrived;
  const double computing_s = seconds_to_compute(arrived, std::max(arrived, load->parts.back().end_block));
  // Nothing is known of computing until something was computed. Then only a tier that hangs is not waited for.
  const double most_s = computing_s > 0 ? computing_s : 1e9;
  const std::size_t part = load->part;
  if (part >= load->parts.size()) return load->waits;
  const double loading_s = seconds_to_load(*load);
  // A tier that was never measured gets the chance of being fast.
  const bool may_split = load->splits && workers_[load->parts[part].tier]->pace().is_measured;
  if (loading_s > most_s || (may_split && seconds_to_split(*load, part, arrived) < kWorthSplitting * loading_s)) {
    load->waits = false;
  }
  return load->waits;
}

void TierManager::cancel(const std::shared_ptr<TierLoad>& load) {
  if (load && (load->waits || load->splits)) load->wanted = false;
}

// ---- Splits

TierManager::Meeting TierManager::meeting(const TierMonitor::Pace& pace, std::size_t computed, std::size_t reading,
                                          std::size_t first) const {
  Meeting best{.block = first, .seconds = seconds_to_compute(computed, first)};
  double ready_s = pace.begin_s;
  for (std::size_t block = std::max(reading, computed); ready_s < best.seconds;) {
    const double seconds = std::max(ready_s, seconds_to_compute(computed, block));
    if (block < first && seconds < best.seconds) best = {.block = block, .seconds = seconds};
    if (block == computed) break;
    const std::size_t batch = std::min(pace.batch_blocks, block - computed);
    block -= batch;
    ready_s += static_cast<double>(batch) * pace.block_s;
  }
  return best;
}

double TierManager::seconds_to_split(const TierLoad& load, std::size_t part, std::size_t first_block) {
  const std::size_t end = load.parts[part].end_block;
  return meeting(workers_[load.parts[part].tier]->pace(&load), first_block, end, end).seconds +
         seconds_to_compute(end, load.parts.back().end_block);
}

bool TierManager::load_from_back(const std::shared_ptr<TierLoad>& load, std::size_t computed_blocks) try {
  if (!load || !load->splits || load->ended) return false;
  const TierLoad::Part& part = load->parts[std::min(load->part.load(), load->parts.size() - 1)];
  // What it goes on from may have been evicted: of blocks before its first it has no keys.
  if (part.end_block <= computed_blocks || computed_blocks < load->first_block) return false;
  TierLoad::Tail& tail = load->tail;
  tail.end = part.end_block;
  tail.tier = part.tier;
  tail.first = tail.reading = tail.end;
  tail.computed = computed_blocks;
  tail.blocks.reserve(tail.end - computed_blocks);
  load->from_back = true;
  return workers_[part.tier]->load(load);
} catch (const std::bad_alloc&) {
  return false;
}

std::size_t TierManager::end_of_computing(const TierLoad& load, std::size_t computed_blocks) {
  const TierLoad::Tail& tail = load.tail;
  if (load.ended) return std::max<std::size_t>(tail.first, computed_blocks);
  return meeting(workers_[tail.tier]->pace(&load), computed_blocks, tail.reading, tail.first).block;
}

// ---- Costs

void TierManager::computed(std::size_t tokens, std::size_t position, double seconds) {
  const std::lock_guard lock(mutex_);
  prefill_cost_.measured(tokens, position, seconds);
}

// ---- Prefetching

void TierManager::learn(std::span<const TokenId> tokens, const PrefixScope& scope, const Plan& plan) {
  if (plan.found_blocks == 0) return;  // seen for the first time
  const BlockKey& key = plan.keys[plan.found_blocks - plan.hot_blocks];
  const std::uint64_t tenant = cache_.tenant_name(scope.salt);
  std::optional<Document> next;
  {
    const std::lock_guard lock(mutex_);
    const Document* found = nullptr;
    if (successors_.knows(key)) {
      found = successors_.observe(tenant, key);
    } else {
      const auto known = tokens.first(plan.found_blocks * cache_.layout_.block_tokens);
      found = successors_.observe(tenant, {.key = key,
                                           .salt = std::string(scope.salt),
                                           .adapter_id = scope.adapter_id,
                                           .tokens = {known.begin(), known.end()}});
    }
    if (found != nullptr) next = *found;
  }
  if (next) prefetch(*next);
}

void TierManager::prefetch(const Document& document) {
  const AdmitOptions options{.max_tokens = document.tokens.size(),
                             .scope = {.salt = document.salt, .adapter_id = document.adapter_id},
                             .partial_blocks = false,
                             .retention = {.priority = RetentionPriority::Low}};
  const std::size_t hot_tokens = cache_.lookup(document.tokens, options);
  const std::size_t block_tokens = cache_.layout_.block_tokens;
  const KeyFunction key_function = cache_.seams_.key_function;
  const ContentKey root = root_key(key_function, cache_.fingerprint_, document.salt, document.adapter_id);
  const auto hot = std::span(document.tokens).first(hot_tokens);
  Plan plan = look_up(document.tokens, hot_tokens / block_tokens, last_key(key_function, root, hot, block_tokens));
  if (plan.parts.empty()) return;
  const auto load = make_load(document.tokens, options, std::move(plan));
  load->prefetch = true;
  load->waits = false;
  queue(load);
}

// ---- Writes

std::shared_ptr<const TierWrite> TierManager::make_write(std::span<const BlockId> blocks) const {
  const PrefixIndex& index = cache_.index_;
  auto write = std::make_shared<TierWrite>();
  const NodeId root = index.parent(blocks.front());
  write->blocks.assign(blocks.begin(), blocks.end());
  write->tenant = cache_.tenant_name(index.salt_of(root));
  write->adapter_id = index.adapter_of(root);
  write->keys.reserve(blocks.size() + 1);
  write->keys.push_back(block_key(index.key_of(root)));
  for (const BlockId block : blocks) write->keys.push_back(block_key(index.key_of(block)));
  return write;
}

void TierManager::offer(std::span<const BlockId> blocks, std::size_t end) try {
  end = std::min(end, workers_.size());
  if (end == 0 || blocks.empty()) return;
  const auto write = make_write(blocks);
  for (std::size_t tier = 0; tier < end; ++tier) workers_[tier]->write(write);
} catch (const std::bad_alloc&) {
  // Not written, then.
}

TierDemotion TierManager::demote(std::span<const BlockId> blocks) {
  // Another request waits for the room.
  constexpr double kLongest_s = 0.2;
  if (blocks.empty()) return {};
  const auto write = make_write(blocks);
  const double computing_s = seconds_to_compute(0, blocks.size());
  for (const auto& worker : workers_) {
    // Nothing is known of computing until something was computed.
    const double saved_s =
        computing_s > 0 ? computing_s - worker->monitor().seconds_to_load(blocks.size()) : kLongest_s;
    const double most_s = std::min(saved_s, kLongest_s);
    if (worker->write_first(write, most_s)) return {.path = write, .until_s = now_s_() + most_s};
  }
  return {};
}

Status TierManager::flush(double timeout_s) try {
  std::vector<TierWorker*> durable;
  for (const auto& worker : workers_) {
    if (worker->store().is_durable()) durable.push_back(worker.get());
  }
  if (durable.empty()) return {};
  const auto unstored = [&] {
    std::uint64_t blocks = 0;
    for (const TierWorker* worker : durable) blocks += worker->monitor().counts().unstored_blocks;
    return blocks;
  };
  const std::uint64_t unstored_before = unstored();
  std::vector<std::shared_ptr<const TierWrite>> writes;
  {
    const std::lock_guard cache_lock(cache_.mutex_);
    std::vector<BlockId> path;
    for (BlockId leaf = 0; leaf < cache_.pool_.capacity_blocks(); ++leaf) {
      if (!cache_.index_.contains(leaf) || !cache_.index_.is_leaf(leaf) || !cache_.path_to_keep(leaf, path)) continue;
      writes.push_back(make_write(path));
      for (TierWorker* worker : durable) worker->write(writes.back(), /*whatever_waits=*/true);
    }
  }
  for (TierWorker* worker : durable) TIERCEL_RETURN_IF_ERROR(worker->flush(timeout_s));
  if (const std::uint64_t blocks = unstored() - unstored_before; blocks > 0) {
    return Status::unavailable(fmt::format("{} KV blocks could not be written", blocks));
  }
  // A store that is full makes room by giving up what came first, which may be of this flush.
  std::size_t given_up = 0;
  for (const TierWorker* worker : durable) {
    for (const auto& write : writes) {
      const std::span<const BlockKey> keys = std::span(write->keys).subspan(1);
      given_up += keys.size() - worker->store().leading(keys);
    }
  }
  if (given_up > 0) {
    return Status::unavailable(fmt::format("{} KV blocks had no room beside the others; raise the capacity", given_up));
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory to write cached prefixes");
}

void TierManager::erase(const TierErasure& erasure) {
  {
    const std::lock_guard lock(mutex_);
    successors_.clear();
  }
  for (const auto& worker : workers_) {
    try {
      worker->erase(erasure);
    } catch (const std::bad_alloc&) {
      worker->erase({.kind = TierErasure::Kind::All});
    }
  }
}

}  // namespace tiercel
