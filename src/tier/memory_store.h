// Host memory below the hot arena: encoded blocks in chunks of one reservation.
//
// Least recently used first; of a path that is used as a whole, the end leaves before the beginning, because a block
// without those before it is of no use. Each block has a checksum of its bytes as stored, checked on every read: memory
// that is read back hours later is worth the check, and a tier must never answer wrongly.
//
// Reads, writes and erasures take turns; the blocks of one read are copied and decoded by two threads. What blocks
// there are has a mutex of its own, never held while bytes are copied or coded: leading() and stats() do not wait for
// these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/thread_team.h"
#include "kv/block_key.h"
#include "tier/chunk_arena.h"
#include "tier/codec.h"
#include "tiercel/tier_store.h"

namespace tiercel {

class MemoryStore final : public TierStore {
 public:
  explicit MemoryStore(const MemoryTierOptions& options) : options_(options) {}

  std::string_view name() const override { return "memory"; }
  bool is_durable() const override { return false; }
  // A second time: keeps what is here where the layout is the same, else forgets it.
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override;
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status write(std::span<const TierRecord> records) override;
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override;
  Status erase_tenant(std::uint64_t tenant) override;
  Status erase_all() override;
  Status flush() override { return {}; }
  TierStats stats() const override;

  // What a block of `encoded_bytes` takes of the capacity, its envelope included.
  static std::size_t taken_bytes(std::size_t encoded_bytes, const KvLayout& layout);
  // The first bytes kept for a block, all of them where it is small; or null. For tests that damage them.
  std::byte* stored_bytes(const BlockKey& key);
  // TierStats::stored_bytes, counted anew from the arena and the blocks. For tests.
  std::size_t counted_bytes();

 private:
  static std::size_t envelope_bytes(const KvLayout& layout);
  struct Block {
    BlockKey key;
    BlockKey parent;
    std::uint64_t tenant = 0;
    std::uint64_t adapter_id = 0;
    std::vector<TokenId> tokens;
    std::uint64_t checksum = 0;
    ChunkArena::ChunkId place = kNoBlock;
    std::uint32_t encoded_bytes = 0;
    std::uint32_t position = 0;  // blocks before it
    std::uint64_t sequence = 0;  // counts what was written
    bool copyable = true;
  };
  using Blocks = std::list<Block>;
  using Index = std::unordered_map<BlockKey, Blocks::iterator, BlockKeyHash>;
  // What one thread needs to code a block.
  struct Lane {
    std::unique_ptr<BlockCodec::Workspace> workspace;
    std::vector<std::byte> encoded;
  };
  // What there is of blocks of one layout, once open.
  struct Coder {
    KvLayout layout;
    std::unique_ptr<BlockCodec> codec;
    ChunkArena arena;
    std::unique_ptr<ThreadTeam> team;
    std::vector<Lane> lanes;  // of the team's threads; writes use the first
  };

  // Corruption: still here.
  Status read_block(TierRead& read, Lane& lane);
  Status write_block(const TierRecord& record);
  // Whether all blocks before it are here, each older than the one behind it. With mutex_ locked.
  bool is_complete(const Block& block) const;
  // The block under that key, if all that is known of it is what is asked for. `asked`: a TierRead or TierRecord.
  template <class Asked>
  std::optional<Blocks::iterator> find(const Asked& asked);
  void remove(Blocks::iterator block);
  // Removes the blocks for which matches(block) holds, and with `descendants` all behind those.
  template <class Matches>
  Status erase_where(const Matches& matches, bool descendants);

  const MemoryTierOptions options_;
  std::mutex turn_;  // taken before mutex_; guards coder_ and the bytes of blocks
  std::optional<Coder> coder_;

  mutable std::mutex mutex_;  // guards what follows; blocks come and go only with turn_ held as well
  mutable Blocks blocks_;     // most recently used first
  Index by_key_;
  TierStats counts_;  // with what is stored now
  std::uint64_t sequence_ = 0;
};

}  // namespace tiercel
