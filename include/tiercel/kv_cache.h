// The KV core: blocks of KV in one arena, found by the tokens they were computed from, held through leases.
//
// For whom: tiercel's own engine, and a custom inference server with its own model runner. It links tiercel::kv alone:
// no LibTorch, no CUDA. The runner writes KV into the blocks that a lease names and reads them by block_table(); the
// cache decides which block that is, who shares it and when it goes.
//
//   auto lease = cache.admit(prompt, {.max_tokens = prompt.size() + 100});   // matched_tokens() need no computing
//   lease->grow(prompt.size());                                              // block_table() now covers the prompt
//   ... write the KV of prompt[matched ..] into cache.block(lease->block_table()[i]) ...
//   lease->commit(prompt.subspan(lease->matched_tokens()));                  // full blocks can be found by others now
//
// A block is known by its content: a 128-bit XXH3 key chained over (fingerprint, salt, adapter) and then (parent key,
// tokens). Tokens, salt and adapter are stored and compared on every hit: equal keys of unequal content are told apart.
//
// Thread-safety: every KvCache method may be called from any thread. A Lease belongs to one thread at a time. Bytes of a
// block are the runner's business: a block that is shared is never written again, an unshared one is written by its
// lease's owner only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "tiercel/eviction_policy.h"
#include "tiercel/options.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

struct AdmitOptions {
  // Most tokens this sequence will ever hold, prompt included; blocks for all of them are promised by admit().
  // At least the prompt's length.
  std::size_t max_tokens = 0;
  // Most leading prompt tokens to take from the cache. A runner that needs the logits of the last prompt token leaves
  // it out: prompt.size() - 1. 0: match nothing.
  std::size_t max_matched_tokens = SIZE_MAX;
  // Sequences of different salts or adapters never share a block.
  std::string_view salt = {};
  std::uint64_t adapter_id = 0;
  // Also take the leading tokens that a cached block has in common with the prompt, by copying that block.
  bool partial_blocks = true;
};

struct KvCacheStats {
  std::size_t capacity_blocks = 0;  // = free + leased + cached
  std::size_t free_blocks = 0;      // hold nothing
  std::size_t leased_blocks = 0;    // held by at least one lease
  std::size_t cached_blocks = 0;    // findable and held by no lease
  std::size_t promised_blocks = 0;  // promised to leases and not yet taken; at most free + cached
  std::size_t block_bytes = 0;      // of the arena per block: the layout's, rounded up to 64
  std::size_t metadata_bytes = 0;   // index, keys, stored tokens, reference counts
  std::uint64_t admitted = 0;           // leases given out
  std::uint64_t prompt_tokens = 0;      // tokens of admitted prompts
  std::uint64_t matched_tokens = 0;     // of those, found in the cache
  std::uint64_t copied_tokens = 0;      // of those, found inside a block and copied
  std::uint64_t evicted_blocks = 0;
  std::uint64_t compare_mismatches = 0; // blocks of equal key and other content that a search met and passed over
};

class KvCacheState;  // internal
struct LeaseState;   // internal

// Holds blocks for one sequence. Move-only; destruction gives everything back, whatever happened in between. It may
// outlive the KvCache object that made it.
class Lease {
 public:
  Lease();  // holds nothing, and can hold nothing
  Lease(Lease&&) noexcept;
  Lease& operator=(Lease&&) noexcept;
  ~Lease();

  // Leading prompt tokens whose KV was found; fixed at admit().
  std::size_t matched_tokens() const;
  // Tokens whose KV is known to be in the blocks: matched_tokens() and everything committed since.
  std::size_t committed_tokens() const;
  // Blocks of this sequence in order: entry i holds tokens [i * block_tokens, (i + 1) * block_tokens). Valid until the
  // next non-const call.
  std::span<const BlockId> block_table() const;

  // Extends block_table() to cover `tokens` tokens. Cannot fail up to the promised max_tokens; beyond that,
  // ResourceExhausted and nothing changes. Fewer tokens than already covered is no-op.
  Status grow(std::size_t tokens);
  // Says that the KV of the next `tokens` (after committed_tokens()) is written. grow() must have covered them. With
  // `share`, each block that becomes full can be found by later admits. Without it, the block these tokens lie in and
  // all later ones of this lease stay private; so they do after invalidate_all(). If an equal block is findable already,
  // this lease switches to that one and gives its own back, so block_table() may change.
  void commit(std::span<const TokenId> tokens, bool share = true);

 private:
  friend class KvCacheState;
  explicit Lease(std::unique_ptr<LeaseState> state);
  std::unique_ptr<LeaseState> state_;
};

class KvCache {
 public:
  // Reserves the arena: options.capacity_bytes rounded down to whole blocks. `layout.block_tokens` rules; the options'
  // own is not looked at. `policy` null: LRU. InvalidArgument for an empty layout, a capacity below one block or above
  // 2^31 blocks, Unavailable where the system gives no memory.
  static Result<KvCache> open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::unique_ptr<EvictionPolicy> policy = nullptr);
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;
  ~KvCache();

  // Finds the longest cached prefix and promises the rest. Shared blocks are held, not copied; a partly matching block
  // is copied into one of the lease's own (copy-on-write). Evicts unheld leaves as needed.
  //   InvalidArgument    max_tokens below the prompt's length
  //   ResourceExhausted  max_tokens needs more blocks than the cache has
  //   Unavailable        not enough blocks now; other leases hold or were promised them. Nothing was taken.
  Result<Lease> admit(std::span<const TokenId> prompt, const AdmitOptions& options);

  // Leading tokens of `prompt` that an admit() with the same options would match now. Holds nothing.
  std::size_t lookup(std::span<const TokenId> prompt, const AdmitOptions& options) const;

  // Forgets every cached prefix. Blocks held by leases stay theirs and are freed with them; those leases share nothing
  // from here on. Returns the blocks forgotten.
  std::size_t invalidate_all();

  // Start of a block's bytes in the arena, 64-byte aligned (4096 where the block size allows).
  std::byte* block(BlockId id) const;
  const KvLayout& layout() const;
  KvCacheStats stats() const;

 private:
  friend class KvCacheState;
  explicit KvCache(std::shared_ptr<KvCacheState> state);
  std::shared_ptr<KvCacheState> state_;
};

}  // namespace tiercel
