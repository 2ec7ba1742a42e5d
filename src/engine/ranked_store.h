// A tier of an engine that ranks share, as rank 0's cache sees it: its own store, and for each other rank one of the
// same kind (rank_tier_server.h) with that rank's part of every block. The cache decides as for any store; what it asks
// for is asked of all.
//
//   read      Every rank reads its part into its own block of the same id, all at once. A block is read where all
//   could;
//             else its status is that of the first that could not. What another rank does not have, or has corrupted,
//             counts as not here until it is written again: leading() ends before it, so the cache writes it.
//   write     stage(): the others copy the blocks while the cache holds them. write(): all write at once.
//   erase, flush    Of all; not Ok where one could not.
//
// A rank that is slow or hangs makes the operation slow or hang, which the cache's deadlines are for. A read returns
// only when no rank's store writes into its blocks any more: where a link breaks meanwhile, when the ranks have ended.
// What is on its way to a rank's GPU then is waited for there (BlockMemory::begin_load()).
// Afterwards the tier fails at once. When blocks may be touched on the other ranks: rank_progress.h.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/rank_progress.h"
#include "engine/rank_tier_messages.h"
#include "kv/block_key.h"
#include "ranks/socket.h"
#include "tiercel/tier_store.h"

namespace tiercel {

class RankedStore final : public TierStore {
 public:
  // `store` has rank 0's part. links[i] leads to rank i + 1's store, and is for this tier alone.
  RankedStore(std::shared_ptr<TierStore> store, std::vector<Socket> links, std::shared_ptr<RankProgress> progress);

  std::string_view name() const override { return store_->name(); }
  bool is_durable() const override { return store_->is_durable(); }
  TierMedium medium() const override { return store_->medium(); }
  // Of all ranks, each with its own layout and fingerprint; these are rank 0's.
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override;
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status stage(std::span<const BlockId> blocks) override;
  Status write(std::span<const TierRecord> records) override;
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override;
  Status erase_tenant(std::uint64_t tenant) override;
  Status erase_all() override;
  Status flush() override;
  // Rank 0's, but missed_blocks, corrupt_blocks and errors: those of the others too.
  TierStats stats() const override;

 private:
  // One of the other ranks.
  struct Peer {
    Socket link;
    bool is_broken = false;
    bool was_asked = false;  // and has not answered
    TierAnswer answer;
  };
  // What became of a block elsewhere, or of a whole request.
  enum class Fault : std::uint8_t { Missing, Corrupt, Failed };
  using Keys = std::unordered_set<BlockKey, BlockKeyHash>;

  // Sends the request to all and does rank 0's part meanwhile; true: everybody has answered. False: a link is broken.
  // With mutex_ locked.
  bool ask_all(TierRequest& request, const std::function<void()>& own_part);
  bool send(Peer& peer) const;
  bool await_answer(std::size_t peer);
  // The first status that is not Ok of own and the others' parts; says so.
  Status outcome(const Status& own, std::string_view what);
  Status ask_and_do(TierRequest request, std::string_view what, const std::function<Status()>& own_part);
  // Rank `rank` could not do as rank 0 did.
  void on_fault(std::size_t rank, Fault fault, const std::string& what);
  void forget(std::span<const BlockKey> keys) const;

  const std::shared_ptr<TierStore> store_;
  const std::shared_ptr<RankProgress> progress_;

  std::mutex mutex_;  // one request at a time
  std::vector<Peer> peers_;
  std::vector<std::byte> bytes_;
  bool is_dirty_ = true;  // since the last flush

  mutable std::mutex keys_mutex_;  // nothing is locked under it
  mutable Keys lacking_;           // of blocks that rank 0 has, and another has not
  // TierRequest's, of the next one.
  mutable std::vector<BlockKey> used_;
  mutable std::vector<std::uint32_t> used_lengths_;

  std::atomic<std::uint64_t> missing_ = 0, corrupt_ = 0, failed_ = 0;  // by Fault
};

}  // namespace tiercel
