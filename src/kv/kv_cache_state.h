// What stands behind KvCache and Lease: arena, block pool, prefix index and eviction policy under one mutex.
//
// Invariants, true whenever the mutex is free:
//   - a block is free, or leased (a lease's table names it), or cached (in the index, in no table);
//   - a lease holds every ancestor of each indexed block it holds, so the cached blocks that nobody holds form whole
//     subtrees: evicting leaf after leaf reaches all of them;
//   - promised blocks <= free + cached blocks, so a lease can always take what it was promised;
//   - the policy's evictable blocks are the cached blocks without children.
//
// Thread-safety: every public method may be called from any thread; calls for one LeaseState come one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kv/block_arena.h"
#include "kv/block_pool.h"
#include "kv/content_key.h"
#include "kv/prefix_index.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

// The inside of a Lease. Gives everything back when it ends, if it was admitted (`cache` is set).
struct LeaseState {
  LeaseState() = default;
  LeaseState(const LeaseState&) = delete;
  LeaseState& operator=(const LeaseState&) = delete;
  ~LeaseState();

  std::shared_ptr<KvCacheState> cache;
  std::vector<BlockId> blocks;   // the block table, with room for all promised blocks
  std::size_t total_blocks = 0;  // taken and promised
  std::size_t max_tokens = 0;
  std::size_t matched_tokens = 0;
  std::size_t committed_tokens = 0;
  // While every full block so far is in the index: its root, and the committed tokens of the block not yet full.
  bool shares = false;
  NodeId root = kNoNode;
  std::vector<TokenId> open_tokens;
  std::uint64_t epoch = 0;  // the cache's when this was admitted
};

class KvCacheState : public std::enable_shared_from_this<KvCacheState> {
 public:
  // As KvCache::open(). `key_function` is for tests that force collisions.
  static Result<KvCache> open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::unique_ptr<EvictionPolicy> policy, KeyFunction key_function = xxh3_key);
  static KvCacheState& of(const KvCache& cache) { return *cache.state_; }

  KvCacheState(const KvLayout& layout, const Fingerprint& fingerprint, bool prefix_reuse, BlockArena arena,
               std::size_t capacity_blocks, std::unique_ptr<EvictionPolicy> policy, KeyFunction key_function);

  // As the methods of KvCache and Lease with these names.
  Result<Lease> admit(std::span<const TokenId> prompt, const AdmitOptions& options);
  std::size_t lookup(std::span<const TokenId> prompt, const AdmitOptions& options);
  std::size_t invalidate_all();
  KvCacheStats stats() const;
  std::byte* block(BlockId id) const { return arena_.block(id); }
  const KvLayout& layout() const { return layout_; }
  Status grow(LeaseState& lease, std::size_t tokens);
  void commit(LeaseState& lease, std::span<const TokenId> tokens, bool share);
  void release(LeaseState& lease);

  // Recounts everything from scratch against the invariants above, as far as they can be seen without the leases. Empty
  // when all is well, else what is wrong. Slow; for tests.
  std::string audit() const;
  // References of every block, 0 for free ones. For tests.
  std::vector<std::uint32_t> references() const;
  // Salts and adapters that leases or cached blocks keep alive. For tests.
  std::size_t roots() const;

 private:
  struct Match {
    NodeId node = kNoNode;   // deepest block found, or the root
    std::size_t blocks = 0;  // on the way from the root to it
    PrefixIndex::CommonPrefix partial;
    std::size_t tokens = 0;  // in all
  };

  std::size_t blocks_for(std::size_t tokens) const;
  Match match(std::span<const TokenId> prompt, const AdmitOptions& options, std::vector<BlockId>* path);
  void hold(BlockId block);
  // One reference less; the block is then someone else's, cached or free.
  void drop(BlockId block);
  bool is_evictable(BlockId block) const;
  // The one place where a block is taken: redeems a promise, evicting if nothing is free.
  BlockId take_promised_block();
  // The one place where a cached block goes for want of room.
  void evict_one();
  // Puts the lease's block that `open_tokens` just filled into the index, or swaps it for the equal one there.
  void share_full_block(LeaseState& lease, std::size_t position);
  void copy_leading_tokens(BlockId from, BlockId to, std::size_t tokens);

  const KvLayout layout_;
  const bool prefix_reuse_;
  const BlockArena arena_;

  mutable std::mutex mutex_;  // guards everything below
  BlockPool pool_;
  PrefixIndex index_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::uint64_t epoch_ = 0;  // counts invalidate_all()
  std::uint64_t admitted_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t matched_tokens_ = 0;
  std::uint64_t copied_tokens_ = 0;
  std::uint64_t evicted_blocks_ = 0;
};

}  // namespace tiercel
