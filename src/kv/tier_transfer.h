// What moves between the hot arena and the tiers: a load for a prompt, a write of a path, an erasure.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tiercel/kv_cache.h"
#include "tiercel/tier_store.h"

namespace tiercel {

// Position of a store in KvCacheOptions::tiers.
using TierId = std::uint8_t;
inline constexpr TierId kNoTier = 0xff;
inline constexpr std::size_t kMostTiers = 16;
inline constexpr std::size_t kTierBatchBlocks = 8;  // moved by one call of a store

// Blocks of a prompt that tiers have. Made by TierManager, carried out by the workers of its parts, one after the
// other. What is no atomic is set before it is queued.
//
// From the front, each block goes into the cache as soon as it is read. From the back, when the prompt has a lease that
// computes its beginning meanwhile: what is read is held here until computing has come that far (Lease::extend()).
struct TierLoad {
  struct Part {
    TierId tier = kNoTier;
    std::size_t end_block = 0;  // of the prompt
  };

  std::string salt;
  std::uint64_t tenant = 0;  // what stores know of it
  std::uint64_t adapter_id = 0;
  Retention retention;
  std::vector<TokenId> tokens;  // whole blocks, up to the last part's end
  std::size_t first_block = 0;  // those before are in the cache
  std::vector<BlockKey> keys;   // of block first_block - 1 (or the root), first_block, ...
  std::vector<Part> parts;      // ends ascend
  bool prefetch = false;        // nobody waits, and nothing is displaced for it
  bool splits = false;          // may go on from the back

  std::atomic<std::size_t> part = 0;     // parts.size(): done
  std::atomic<std::size_t> arrived = 0;  // blocks of the prompt in the cache
  std::atomic<bool> wanted = true;       // false: the prompt no longer waits
  std::atomic<bool> waits = true;        // false: it is not worth waiting for; set once
  std::atomic<bool> ended = false;

  struct Tail {
    std::atomic<std::size_t> first = 0;     // blocks from here to `end` are read
    std::atomic<std::size_t> reading = 0;   // blocks from here to `first` are being read
    std::atomic<std::size_t> computed = 0;  // blocks before this one are computed, or will be by the step under way
    // Guarded by the cache's mutex, as changes of the above are.
    std::size_t end = 0;
    TierId tier = kNoTier;
    struct Block {
      BlockId block = kNoBlock;
      bool copyable = false;
    };
    std::vector<Block> blocks;  // from the last to `first`
    std::vector<Lease> leases;  // which hold them
  };
  std::atomic<bool> from_back = false;
  Tail tail;  // when from_back
};

// A path of blocks to be written. It holds none of them: what was evicted when its turn comes is not written.
struct TierWrite {
  std::vector<BlockId> blocks;  // parents first
  std::vector<BlockKey> keys;   // of the root and of every block
  std::uint64_t tenant = 0;
  std::uint64_t adapter_id = 0;
};

// A path that is written before its room is given to others.
struct TierDemotion {
  std::weak_ptr<const TierWrite> path;  // expires when it is written, or given up
  double until_s = 0;                   // when it is not worth waiting for any more
};

// All that follow `parent` and begin with `tokens`; all of `tenant`; all.
struct TierErasure {
  enum class Kind : std::uint8_t { Prefix, Tenant, All };
  Kind kind = Kind::All;
  BlockKey parent = {};
  std::vector<TokenId> tokens = {};
  std::uint64_t tenant = 0;
  bool failed = false;  // was tried already
};

}  // namespace tiercel
