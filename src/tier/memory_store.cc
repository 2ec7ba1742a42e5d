#include "tier/memory_store.h"

#include <algorithm>
#include <bit>
#include <new>
#include <system_error>

#include "tier/reading_team.h"

namespace tiercel {
namespace {

// About 1/64 of a block: what the last chunk of a block wastes is little then, and so are the links.
std::size_t chunk_bytes_for(const KvLayout& layout) {
  const std::size_t usual = std::clamp<std::size_t>(std::bit_floor(layout.block_bytes() / 64), 256, 4096);
  return std::min(usual, BlockMemory::stride_of(layout.block_bytes()));
}

bool same(const KvLayout& a, const KvLayout& b) {
  return a.layers == b.layers && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim &&
         a.block_tokens == b.block_tokens && a.dtype == b.dtype;
}

}  // namespace

Result<std::shared_ptr<TierStore>> memory_tier(const MemoryTierOptions& options) try {
  if (options.capacity_bytes == 0)
    return Status::invalid_argument("capacity_bytes is 0; give room for at least one KV block");
  return std::shared_ptr<TierStore>(std::make_shared<MemoryStore>(options));
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a memory tier");
}

std::size_t MemoryStore::envelope_bytes(const KvLayout& layout) {
  // A list node, an index node and a bucket or two, the tokens; and what an allocator puts before each of three.
  constexpr std::size_t kAllocation = 16;
  constexpr std::size_t kListNode = 2 * sizeof(void*) + sizeof(Block) + kAllocation;
  constexpr std::size_t kIndexNode = sizeof(Index::value_type) + 3 * sizeof(void*) + kAllocation;
  return kListNode + kIndexNode + layout.block_tokens * sizeof(TokenId) + kAllocation;
}

std::size_t MemoryStore::taken_bytes(std::size_t encoded_bytes, const KvLayout& layout) {
  return envelope_bytes(layout) + ChunkArena::taken_bytes(encoded_bytes, chunk_bytes_for(layout));
}

Status MemoryStore::open(const KvLayout& layout, const Fingerprint&) try {
  const std::lock_guard turn(turn_);
  if (coder_ && same(coder_->layout, layout)) return {};
  auto codec = make_codec(options_.codec, layout);
  if (!codec.ok()) return codec.status();
  const std::size_t longest = (*codec)->max_encoded_bytes();
  if (taken_bytes(longest, layout) > options_.capacity_bytes)
    return Status::resource_exhausted("the memory tier has no room for one KV block; raise its capacity");
  auto arena = ChunkArena::reserve(options_.capacity_bytes, chunk_bytes_for(layout));
  if (!arena.ok()) return arena.status();
  Coder coder{
      .layout = layout, .codec = *std::move(codec), .arena = *std::move(arena), .team = reading_team(), .lanes = {}};
  for (std::size_t i = 0; i < coder.team->threads(); ++i) {
    coder.lanes.push_back({.workspace = coder.codec->make_workspace(), .encoded = std::vector<std::byte>(longest)});
  }
  coder_.reset();
  coder_.emplace(std::move(coder));
  const std::lock_guard lock(mutex_);
  by_key_.clear();
  blocks_.clear();
  counts_ = {.capacity_bytes = options_.capacity_bytes};
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a memory tier");
} catch (const std::system_error&) {
  return Status::unavailable("the system gives no thread for a memory tier");
}

std::size_t MemoryStore::leading(std::span<const BlockKey> keys) const {
  const std::lock_guard lock(mutex_);
  std::size_t known = 0;
  const Block* before = nullptr;
  for (; known < keys.size(); ++known) {
    const auto found = by_key_.find(keys[known]);
    if (found == by_key_.end()) break;
    const Block& block = *found->second;
    const bool goes_on = before == nullptr || block.position == 0
                             ? is_complete(block)
                             : block.parent == before->key && block.sequence > before->sequence;
    if (!goes_on) break;
    before = &block;
  }
  // The first block last, so that it stays longest.
  for (std::size_t i = known; i-- > 0;) blocks_.splice(blocks_.begin(), blocks_, by_key_.find(keys[i])->second);
  return known;
}

bool MemoryStore::is_complete(const Block& block) const {
  for (const Block* next = &block; next->position > 0;) {
    const auto parent = by_key_.find(next->parent);
    if (parent == by_key_.end() || parent->second->sequence >= next->sequence) return false;
    next = &*parent->second;
  }
  return true;
}

template <class Asked>
std::optional<MemoryStore::Blocks::iterator> MemoryStore::find(const Asked& asked) {
  const std::lock_guard lock(mutex_);
  const auto known = by_key_.find(asked.key);
  if (known == by_key_.end()) return std::nullopt;
  const Block& block = *known->second;
  const bool is_it = block.parent == asked.parent && block.tenant == asked.tenant &&
                     block.adapter_id == asked.adapter_id && std::ranges::equal(block.tokens, asked.tokens);
  return is_it && is_complete(block) ? std::optional(known->second) : std::nullopt;
}

void MemoryStore::read(std::span<TierRead> reads) {
  const std::lock_guard turn(turn_);
  if (coder_) {
    coder_->team->run(reads.size(), [&](std::size_t i, std::size_t thread) {
      reads[i].status = read_block(reads[i], coder_->lanes[thread]);
    });
  }
  const std::lock_guard lock(mutex_);
  for (TierRead& read : reads) {
    if (!coder_) read.status = Status(StatusCode::NotFound, {});
    if (read.status.code() == StatusCode::NotFound) ++counts_.missed_blocks;
    if (read.status.code() != StatusCode::Corruption) continue;
    ++counts_.corrupt_blocks;
    // Unless it was asked for twice.
    if (const auto damaged = by_key_.find(read.key); damaged != by_key_.end()) remove(damaged->second);
  }
}

Status MemoryStore::read_block(TierRead& read, Lane& lane) {
  if (read.bytes.size() != coder_->layout.block_bytes()) return Status(StatusCode::NotFound, {});
  const auto block = find(read);
  if (!block) return Status(StatusCode::NotFound, {});
  const Block& found = **block;
  const bool is_raw = options_.codec == Codec::Raw;
  const std::span<std::byte> encoded = is_raw ? read.bytes : std::span(lane.encoded).first(found.encoded_bytes);
  // Of what is handed out, while it is copied.
  CheckedCopy copy(is_raw ? CheckedCopy::Target::PastCaches : CheckedCopy::Target::Cached);
  coder_->arena.get(found.place, encoded, copy);
  Status status;
  if (copy.checksum() != found.checksum) {
    status = Status(StatusCode::Corruption, {});
  } else if (!is_raw) {
    status = coder_->codec->decode(encoded, read.bytes, *lane.workspace);
  }
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  ++counts_.read_blocks;
  counts_.read_bytes += found.encoded_bytes;
  read.copyable = found.copyable;
  return {};
}

Status MemoryStore::write(std::span<const TierRecord> records) try {
  const std::lock_guard turn(turn_);
  for (const TierRecord& record : records) TIERCEL_RETURN_IF_ERROR(write_block(record));
  return {};
} catch (const std::bad_alloc&) {
  return Status(StatusCode::Unavailable, {});
}

Status MemoryStore::write_block(const TierRecord& record) {
  if (!coder_ || record.bytes.size() != coder_->layout.block_bytes() ||
      record.tokens.size() != coder_->layout.block_tokens) {
    return Status::invalid_argument("a memory tier holds blocks of one size; give each KV layout a tier of its own");
  }
  if (const auto known = find(record)) {
    const std::lock_guard lock(mutex_);
    blocks_.splice(blocks_.begin(), blocks_, *known);
    return {};
  }
  std::span<const std::byte> encoded = record.bytes;
  if (options_.codec != Codec::Raw) {
    Lane& lane = coder_->lanes.front();
    encoded = std::span(lane.encoded).first(coder_->codec->encode(record.bytes, lane.encoded, *lane.workspace));
  }
  Blocks added;
  added.push_back({.key = record.key,
                   .parent = record.parent,
                   .tenant = record.tenant,
                   .adapter_id = record.adapter_id,
                   .tokens = {record.tokens.begin(), record.tokens.end()},
                   .checksum = checksum_of(encoded),
                   .encoded_bytes = static_cast<std::uint32_t>(encoded.size()),
                   .position = record.position,
                   .sequence = ++sequence_,
                   .copyable = record.copyable});
  const std::size_t taken = taken_bytes(encoded.size(), coder_->layout);
  {
    const std::lock_guard lock(mutex_);
    // Equal key, other content or without what was before it: the newer one.
    if (const auto known = by_key_.find(record.key); known != by_key_.end()) remove(known->second);
    while (counts_.stored_bytes + taken > counts_.capacity_bytes) {
      remove(std::prev(blocks_.end()));
      ++counts_.evicted_blocks;
    }
  }
  added.front().place = coder_->arena.put(encoded);
  const std::lock_guard lock(mutex_);
  try {
    by_key_.emplace(record.key, added.begin());
  } catch (const std::bad_alloc&) {
    coder_->arena.give_back(added.front().place);
    throw;
  }
  blocks_.splice(blocks_.begin(), added);
  ++counts_.stored_blocks;
  counts_.stored_bytes += taken;
  ++counts_.written_blocks;
  counts_.written_bytes += encoded.size();
  return {};
}

void MemoryStore::remove(Blocks::iterator block) {
  coder_->arena.give_back(block->place);
  --counts_.stored_blocks;
  counts_.stored_bytes -= taken_bytes(block->encoded_bytes, coder_->layout);
  by_key_.erase(block->key);
  blocks_.erase(block);
}

template <class Matches>
Status MemoryStore::erase_where(const Matches& matches, bool descendants) try {
  const std::lock_guard turn(turn_);
  const std::lock_guard lock(mutex_);
  std::vector<Blocks::iterator> gone;
  std::unordered_multimap<BlockKey, Blocks::iterator, BlockKeyHash> others;  // by parent
  for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
    if (matches(*block)) {
      gone.push_back(block);
    } else if (descendants) {
      others.emplace(block->parent, block);
    }
  }
  for (std::size_t i = 0; i < gone.size() && descendants; ++i) {
    const auto [first, last] = others.equal_range(gone[i]->key);
    for (auto child = first; child != last; ++child) gone.push_back(child->second);
    others.erase(first, last);
  }
  for (const auto block : gone) remove(block);
  counts_.erased_blocks += gone.size();
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
  return counts_;
}

std::byte* MemoryStore::stored_bytes(const BlockKey& key) {
  const std::lock_guard turn(turn_);
  const std::lock_guard lock(mutex_);
  const auto known = by_key_.find(key);
  return known == by_key_.end() ? nullptr : coder_->arena.chunk(known->second->place);
}

std::size_t MemoryStore::counted_bytes() {
  const std::lock_guard turn(turn_);
  const std::lock_guard lock(mutex_);
  return coder_->arena.counted_bytes() + blocks_.size() * envelope_bytes(coder_->layout);
}

}  // namespace tiercel
