#include "tier/memory_store.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tiercel {

Result<std::shared_ptr<TierStore>> memory_tier(const MemoryTierOptions& options) try {
  if (options.capacity_bytes == 0)
    return Status::invalid_argument("capacity_bytes is 0; give room for at least one KV block");
  return std::shared_ptr<TierStore>(std::make_shared<MemoryStore>(options.capacity_bytes));
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a memory tier");
}

std::size_t MemoryStore::leading(std::span<const BlockKey> keys) const {
  const std::lock_guard lock(mutex_);
  std::size_t known = 0;
  while (known < keys.size() && by_key_.contains(keys[known])) ++known;
  // The first block last, so that it stays longest.
  for (std::size_t i = known; i-- > 0;) blocks_.splice(blocks_.begin(), blocks_, by_key_.find(keys[i])->second);
  return known;
}

void MemoryStore::read(std::span<TierRead> reads) {
  const std::lock_guard lock(mutex_);
  for (TierRead& read : reads) read.status = read_block(read);
}

Status MemoryStore::read_block(TierRead& read) {
  const auto known = by_key_.find(read.key);
  if (known == by_key_.end() || known->second->parent != read.parent || read.bytes.size() != block_bytes_ ||
      !std::ranges::equal(known->second->tokens, read.tokens)) {
    ++counts_.missed_blocks;
    return Status(StatusCode::NotFound, {});
  }
  std::memcpy(read.bytes.data(), arena_->block(known->second->place), block_bytes_);
  // Of the copy: what is handed out is what was checked.
  if (XXH3_64bits(read.bytes.data(), block_bytes_) != known->second->checksum) {
    ++counts_.corrupt_blocks;
    remove(known->second);
    return Status(StatusCode::Corruption, {});
  }
  ++counts_.read_blocks;
  counts_.read_bytes += block_bytes_;
  read.copyable = known->second->copyable;
  return {};
}

Status MemoryStore::write(std::span<const TierRecord> records) try {
  const std::lock_guard lock(mutex_);
  for (const TierRecord& record : records) {
    if (Status failed = write_block(record); !failed.ok()) return failed;
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status(StatusCode::Unavailable, {});
}

Status MemoryStore::write_block(const TierRecord& record) {
  if (record.bytes.size() != block_bytes_) {
    return Status::invalid_argument("a memory tier holds blocks of one size; give each KV layout a tier of its own");
  }
  if (const auto known = by_key_.find(record.key); known != by_key_.end()) {
    if (known->second->parent == record.parent && std::ranges::equal(known->second->tokens, record.tokens)) {
      blocks_.splice(blocks_.begin(), blocks_, known->second);
      return {};
    }
    remove(known->second);  // equal key, other content: the newer one
  }
  if (free_.empty()) {
    remove(std::prev(blocks_.end()));
    ++counts_.evicted_blocks;
  }
  Blocks added;
  added.push_back({.key = record.key,
                   .parent = record.parent,
                   .tenant = record.tenant,
                   .tokens = {record.tokens.begin(), record.tokens.end()},
                   .checksum = XXH3_64bits(record.bytes.data(), record.bytes.size()),
                   .copyable = record.copyable,
                   .place = free_.back()});
  by_key_.emplace(record.key, added.begin());
  blocks_.splice(blocks_.begin(), added);
  std::memcpy(arena_->block(free_.back()), record.bytes.data(), record.bytes.size());
  free_.pop_back();
  ++counts_.written_blocks;
  counts_.written_bytes += block_bytes_;
  return {};
}

Status MemoryStore::open(const KvLayout& layout, const Fingerprint&) try {
  const std::lock_guard lock(mutex_);
  const std::size_t block_bytes = layout.block_bytes();
  const std::size_t stride = BlockArena::stride_of(block_bytes);
  const std::size_t blocks =
      stride == 0 ? 0 : std::min<std::size_t>(capacity_bytes_ / stride, std::numeric_limits<std::int32_t>::max());
  if (blocks == 0)
    return Status::resource_exhausted("the memory tier has no room for one KV block; raise its capacity");
  auto arena = BlockArena::reserve(blocks, block_bytes);
  if (!arena.ok()) return arena.status();
  free_.reserve(blocks);
  by_key_.reserve(blocks);
  for (std::size_t i = blocks; i-- > 0;) free_.push_back(static_cast<BlockId>(i));
  arena_ = *std::move(arena);
  block_bytes_ = block_bytes;
  counts_.capacity_bytes = blocks * block_bytes;
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a memory tier");
}

void MemoryStore::remove(Blocks::iterator block) {
  free_.push_back(block->place);  // has room for all
  by_key_.erase(block->key);
  blocks_.erase(block);
}

template <class Matches>
Status MemoryStore::erase_where(const Matches& matches, bool descendants) try {
  const std::lock_guard lock(mutex_);
  std::unordered_set<BlockKey, KeyHash> gone;
  for (bool more = true; more;) {
    more = false;
    for (auto block = blocks_.begin(); block != blocks_.end();) {
      const auto next = std::next(block);
      if (matches(*block) || gone.contains(block->parent)) {
        if (descendants) more = gone.insert(block->key).second || more;
        remove(block);
        ++counts_.erased_blocks;
      }
      block = next;
    }
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status(StatusCode::Unavailable, {});
}

Status MemoryStore::erase(const BlockKey& parent, std::span<const TokenId> tokens) {
  return erase_where(
      [&](const Block& block) {
        return block.parent == parent && block.tokens.size() >= tokens.size() &&
               std::ranges::equal(std::span(block.tokens).first(tokens.size()), tokens);
      },
      true);
}

Status MemoryStore::erase_tenant(std::uint64_t tenant) {
  return erase_where([&](const Block& block) { return block.tenant == tenant; }, false);
}

Status MemoryStore::erase_all() {
  return erase_where([](const Block&) { return true; }, false);
}

TierStats MemoryStore::stats() const {
  const std::lock_guard lock(mutex_);
  TierStats stats = counts_;
  stats.stored_blocks = blocks_.size();
  stats.stored_bytes = blocks_.size() * block_bytes_;
  return stats;
}

std::byte* MemoryStore::stored_bytes(const BlockKey& key) {
  const std::lock_guard lock(mutex_);
  const auto known = by_key_.find(key);
  return known == by_key_.end() ? nullptr : arena_->block(known->second->place);
}

}  // namespace tiercel
