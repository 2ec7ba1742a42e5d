// Host memory below the hot arena: one reservation, cut into blocks when the first one shows their size.
//
// Least recently used first; of a path that is used as a whole, the end leaves before the beginning, because a block
// without those before it is of no use. Each block has an XXH3-64 of its bytes, checked on every read: memory that is
// read back hours later is worth the check, and a tier must never answer wrongly.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kv/block_arena.h"
#include "tiercel/tier_store.h"

namespace tiercel {

class MemoryStore final : public TierStore {
 public:
  // At least 1 byte; room for less than one block stores nothing.
  explicit MemoryStore(std::size_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  std::string_view name() const override { return "memory"; }
  bool is_durable() const override { return false; }
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override;
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status write(std::span<const TierRecord> records) override;
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override;
  Status erase_tenant(std::uint64_t tenant) override;
  Status erase_all() override;
  Status flush() override { return {}; }
  TierStats stats() const override;

  // The bytes kept for a block, or null. For tests that damage them.
  std::byte* stored_bytes(const BlockKey& key);

 private:
  struct Block {
    BlockKey key;
    BlockKey parent;
    std::uint64_t tenant = 0;
    std::vector<TokenId> tokens;
    std::uint64_t checksum = 0;
    bool copyable = true;
    BlockId place = kNoBlock;
  };
  using Blocks = std::list<Block>;
  struct KeyHash {
    std::size_t operator()(const BlockKey& key) const { return static_cast<std::size_t>(key.low); }
  };

  Status read_block(TierRead& read);
  Status write_block(const TierRecord& record);
  void remove(Blocks::iterator block);
  // Removes the blocks for which matches(block) holds, and with `descendants` all behind those.
  template <class Matches>
  Status erase_where(const Matches& matches, bool descendants);

  const std::size_t capacity_bytes_;
  mutable std::mutex mutex_;  // guards everything below
  std::optional<BlockArena> arena_;
  std::size_t block_bytes_ = 0;
  std::vector<BlockId> free_;
  mutable Blocks blocks_;  // most recently used first
  std::unordered_map<BlockKey, Blocks::iterator, KeyHash> by_key_;
  TierStats counts_;
};

}  // namespace tiercel
