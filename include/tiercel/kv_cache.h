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
// Thread-safety: every KvCache method may be called from any thread. A Lease belongs to one thread at a time. Bytes of
// a block are the runner's business: a block that is shared is never written again, an unshared one is written by its
// lease's owner only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tiercel/eviction_policy.h"
#include "tiercel/options.h"
#include "tiercel/status.h"
#include "tiercel/tier_store.h"
#include "tiercel/types.h"

namespace tiercel {

// Whose prefix: sequences of different salts or adapters never share a block. All adapters of one salt are one tenant.
struct PrefixScope {
  std::string_view salt = {};
  std::uint64_t adapter_id = 0;
};

struct AdmitOptions {
  // Most tokens this sequence will ever hold, prompt included; blocks for all of them are promised by admit().
  // At least the prompt's length.
  std::size_t max_tokens = 0;
  // Most leading prompt tokens to take from the cache. A runner that needs the logits of the last prompt token leaves
  // it out: prompt.size() - 1. 0: match nothing.
  std::size_t max_matched_tokens = SIZE_MAX;
  // Leading prompt tokens that this lease will compute and share where they are not cached; others may wait for them
  // (ExpectedPrompt::in_flight).
  std::size_t max_shared_tokens = SIZE_MAX;
  PrefixScope scope = {};
  // Also take the leading tokens that a cached block has in common with the prompt, by copying that block. Not with
  // several KV groups.
  bool partial_blocks = true;
  // For expect(): the prompt's end may be loaded while its beginning is computed, where that takes less time than
  // either alone. The runner hands the ExpectedPrompt to admit() and calls Lease::extend() before each step of the
  // prompt.
  bool splits = false;
  Retention retention = {};
};

// A set of layers whose KV of a token is needed equally long. Each group has blocks of its own, all of the cache's
// layout. The first group is full.
struct KvGroup {
  // 0: full, every later token reads it. W: a token reads itself and the W - 1 before it (sliding-window attention), so
  // blocks further back are given up. At least 2. A state snapshot, valid at a block's end only, is a window of 2.
  std::uint32_t window_tokens = 0;
};

struct KvCacheStats {
  std::size_t capacity_blocks = 0;       // = free + leased + cached
  std::size_t free_blocks = 0;           // hold nothing
  std::size_t leased_blocks = 0;         // held by at least one lease or pin
  std::size_t cached_blocks = 0;         // findable and held by none
  std::size_t promised_blocks = 0;       // promised to leases and not yet taken; at most free + cached
  std::size_t pinned_blocks = 0;         // of the leased ones, held by a pin
  std::size_t block_bytes = 0;           // of the arena per block: the layout's, rounded up to 64
  std::size_t metadata_bytes = 0;        // index, keys, stored tokens, reference counts, eviction policy
  std::uint64_t admitted = 0;            // leases given out
  std::uint64_t prompt_tokens = 0;       // tokens of admitted prompts
  std::uint64_t matched_tokens = 0;      // of those, found in the cache
  std::uint64_t copied_tokens = 0;       // of those, found inside a block and copied
  std::uint64_t evicted_blocks = 0;      // for want of room
  std::uint64_t expired_blocks = 0;      // given back after their ttl_ms
  std::uint64_t compare_mismatches = 0;  // blocks of equal key and other content that a search met and passed over
  std::uint64_t loaded_blocks = 0;       // from a tier into the cache
  std::uint64_t prefetched_useful_blocks = 0;  // of those, then found by a lease
  std::uint64_t prefetched_wasted_blocks = 0;  // of those, gone before any lease found them
  std::uint64_t stored_blocks = 0;             // written to a tier
  std::uint64_t unstored_blocks = 0;           // not written: too many waited, their room was needed, the store failed
  std::uint64_t store_errors = 0;              // calls of a store that failed, and blocks that were damaged
  std::vector<KvTierStats> tiers = {};         // in order of speed; none where there was no memory
};

// What a scheduler asks at every step.
struct KvRoom {
  std::size_t free_blocks = 0;       // hold nothing, and are promised to nobody
  std::size_t grantable_blocks = 0;  // these, and cached ones that could be evicted: what admit() could promise now
  std::size_t demoting_blocks = 0;   // held for moments, until a tier has them
  std::size_t unpinned_blocks = 0;   // all that no pin holds: what a lease could have at most while they last
};

class KvCacheState;    // internal
struct LeaseState;     // internal
struct ExpectedState;  // internal

// Holds blocks for one sequence. Move-only; destruction gives everything back, whatever happened in between. It may
// outlive the KvCache object that made it.
class Lease {
 public:
  Lease();  // holds nothing, and can hold nothing
  Lease(Lease&&) noexcept;
  Lease& operator=(Lease&&) noexcept;
  ~Lease();

  // Prompt tokens whose KV was found: by admit(), and by extend().
  std::size_t matched_tokens() const;
  // Of these, those in blocks that this tier had given, and that no request had used since.
  std::size_t matched_tokens_from(std::size_t tier) const;
  // Tokens whose KV is known to be in the blocks: matched_tokens() and everything committed since.
  std::size_t committed_tokens() const;
  // Blocks of this sequence in order: entry i holds tokens [i * block_tokens, (i + 1) * block_tokens). In a group with
  // a window, kNoBlock for blocks out of its reach. Valid until the next non-const call.
  std::span<const BlockId> block_table(std::size_t group = 0) const;

  // Extends block_table() to cover `tokens` tokens. Cannot fail up to the promised max_tokens; beyond that,
  // ResourceExhausted and nothing changes. Fewer tokens than already covered is no-op.
  Status grow(std::size_t tokens);
  // Says that the KV of the next `tokens` (after committed_tokens()) is written. grow() must have covered them. With
  // `share`, each block that becomes full can be found by later admits. Without it, the block these tokens lie in and
  // all later ones of this lease stay private; so they do after invalidate_all(). If an equal block is findable
  // already, this lease switches to that one and gives its own back, so block_table() may change. Of a block with
  // tokens that are not `copyable` no part is copied for others (AdmitOptions::partial_blocks): for a runner whose KV
  // of a token depends, by rounding, on what was computed beside it.
  void commit(std::span<const TokenId> tokens, bool share = true, bool copyable = true);
  // Before each step of a prompt that was admitted with its ExpectedPrompt. While its beginning is computed, a tier
  // gives its end, the last blocks first. Where committed_tokens() has reached the first of them, all of them join the
  // lease: as committed and as matched, and as shared as if computed. Returns up to which token of the sequence it pays
  // to compute before the next call: committed_tokens() where it pays to wait, some milliseconds, for a block that is
  // being read; otherwise more, SIZE_MAX when nothing is on its way any more. To compute further loses nothing but
  // time.
  std::size_t extend();

  // How a sequence that had all these tokens, this lease's committed ones and then `next`, went on: of several the one
  // that came last. Writes as many tokens as are known, or as `out` has room for, and returns how many. A guess for
  // speculative decoding, never from another scope: nothing is held, it counts as no use, and it may be gone the next
  // moment. Known are the tokens of cached blocks and, of the last few thousand leases that ended, those behind their
  // last full block. 0 where what this lease commits is not shared.
  std::size_t continuation(std::span<const TokenId> next, std::span<TokenId> out) const;

  // Another sequence with the same tokens so far: all full blocks are shared, the block begun is copied. Its
  // committed_tokens() and matched_tokens() are this one's committed_tokens(). Statuses as admit(); this lease stays as
  // it is.
  Result<Lease> fork(std::size_t max_tokens) const;

 private:
  friend class KvCacheState;
  explicit Lease(std::unique_ptr<LeaseState> state);
  std::unique_ptr<LeaseState> state_;
};

// A prompt that waits to be admitted. While it lives, its cached blocks, and those that others add meanwhile, are
// evicted only when nothing else is left. Holds no block. Move-only; may outlive the KvCache object. Belongs to one
// thread at a time.
class ExpectedPrompt {
 public:
  ExpectedPrompt();  // expects nothing
  ExpectedPrompt(ExpectedPrompt&&) noexcept;
  ExpectedPrompt& operator=(ExpectedPrompt&&) noexcept;
  ~ExpectedPrompt();

  // Leading tokens in whole blocks that are in the cache now.
  std::size_t cached_tokens() const;
  // Whether the block after those is being computed by a lease, or blocks of this prompt are on their way from a tier,
  // so that waiting saves computing. It ends with the commit or with the lease, whichever comes first; with
  // the load, or when that turns out slower than computing.
  bool in_flight() const;
  // Leading tokens that are to be in the cache when the load from tiers that it began with is done. 0 where there was
  // none that was worth waiting for.
  std::size_t awaited_tokens() const;

 private:
  friend class KvCache;
  friend class KvCacheState;
  explicit ExpectedPrompt(std::unique_ptr<ExpectedState> state);
  std::unique_ptr<ExpectedState> state_;
};

class KvCache {
 public:
  // Reserves the arena: options.capacity_bytes rounded down to whole blocks. `layout.block_tokens` rules; the options'
  // own is not looked at. No `groups`: one full one. InvalidArgument for an empty layout, a capacity below one block or
  // above 2^30 blocks, groups whose first is not full, or a policy factory that makes none; Unavailable where the
  // system gives no memory.
  static Result<KvCache> open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::span<const KvGroup> groups = {});
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;
  ~KvCache();

  // Finds the longest cached prefix that is valid in all groups and promises the rest. Shared blocks are held, not
  // copied; a partly matching block is copied into one of the lease's own (copy-on-write). Evicts unheld leaves as
  // needed.
  //   InvalidArgument    max_tokens below the prompt's length
  //   ResourceExhausted  max_tokens needs more blocks than the cache, or the tenant's quota, has
  //   Rejected           the tenant's quota is held by its other leases and pins now
  //   Unavailable        not enough blocks now; other leases and pins hold or were promised them, or, for moments, a
  //                      few are being copied to a tier
  // In all of these nothing was taken. `expected`: of this prompt and these options; what is to be loaded of it beside
  // computing goes on for the lease, until that ends (Lease::extend()).
  Result<Lease> admit(std::span<const TokenId> prompt, const AdmitOptions& options, ExpectedPrompt* expected = nullptr);

  // Ends the lease of a sequence that gives its room to another and will be admitted again. What can be found of it
  // goes to the fastest tier with room, before all other writes, and stays held until it is there, at most 0.2 s
  // (KvRoom:: demoting_blocks), where that takes less time than computing it again, as far as is known. Returns the
  // blocks held; 0: its room is given back already. No call waits for it.
  std::size_t demote(Lease lease);

  // How many blocks admit() would lack for the prompt of `expected` with `max_tokens` if the leases in `ended` had
  // ended, as those of demotions under way will. 0: none; the tenant's quota is not looked at. What others hold too is
  // not given back by a lease's end. Holds nothing, and counts as no use.
  std::size_t missing_blocks(const ExpectedPrompt& expected, std::size_t max_tokens,
                             std::span<const Lease* const> ended = {}) const;

  // Leading tokens of `prompt` that an admit() with the same options would match now. Holds nothing, and counts as no
  // use.
  std::size_t lookup(std::span<const TokenId> prompt, const AdmitOptions& options) const;
  // Announces that `prompt` will be admitted, and starts to load what tiers have of it, where that pays. Its tokens
  // must outlive the handle. Only whole blocks count, up to options.max_matched_tokens.
  ExpectedPrompt expect(std::span<const TokenId> prompt, const AdmitOptions& options);
  // Counts as a use of the cached prefix, with options.retention. Returns its tokens, in whole blocks.
  std::size_t warm(std::span<const TokenId> prompt, const AdmitOptions& options);

  // Keeps the cached whole blocks of `prompt` from eviction for `ttl_ms` (0: until unpin). Pinning what is pinned sets
  // the new time. Returns the tokens pinned. NotFound where nothing is cached; ResourceExhausted where pins would hold
  // more than half of the cache, Rejected where the tenant's quota, Unavailable where promises to leases leave no room.
  Result<std::size_t> pin(std::span<const TokenId> prompt, const PrefixScope& scope = {}, std::uint64_t ttl_ms = 0);
  // Ends every pin on the way of `prompt`. Returns the pins ended.
  std::size_t unpin(std::span<const TokenId> prompt, const PrefixScope& scope = {});

  // Forget cached prefixes: all that begin with the whole blocks of `prefix` (with `prefix` itself where it is shorter
  // than one block; nothing where it is empty), all of a tenant, all. Pins on them end. Blocks held by
  // leases stay theirs and are freed with them; what those leases commit behind a forgotten block is not shared. Return
  // the blocks forgotten.
  std::size_t invalidate(std::span<const TokenId> prefix, const PrefixScope& scope = {});
  std::size_t invalidate_tenant(std::string_view salt);
  std::size_t invalidate_all();

  // Most bytes, rounded down to whole blocks, that the tenant may hold, be promised and have cached together; 0: the
  // default again (KvCacheOptions::tenant_quota_bytes). A tenant at its quota evicts its own blocks, least recently
  // released first. A quota below what is in use takes effect as leases end. InvalidArgument for less than one block,
  // or where the cache was opened without tenant quotas.
  Status set_tenant_quota(std::string_view salt, std::size_t quota_bytes);

  // Says that computing `tokens` prompt tokens, the first of them at `position`, took so long. The cache loads from a
  // tier only what would take longer to compute. Without it, it loads whatever a tier has.
  void report_prefill(std::size_t tokens, std::size_t position, double seconds);
  // Calls `notify` on a thread of the cache's own whenever a tier has read something, or taken something whose room is
  // waited for: in_flight(), extend() and room() may say something else then. For a scheduler that has nothing else to
  // do; without it, it asks again. `notify` is quick and calls nothing of this cache. Takes the place of the one
  // before, which is not called any more when this returns; an empty one: nothing is called.
  void notify_transfers(std::function<void()> notify);
  // Calls `observe` whenever the KV of the first `tokens` tokens of block `from` has been copied to block `to` (of a
  // partly matched block at admit(), of a begun one at fork()): for a model that keeps the KV of the same block ids
  // elsewhere too, and has to copy it there before its next step. On the thread of that call, within it, in order;
  // `observe` is quick and calls nothing of this cache. Set it before the first of them. What tiers load is not told.
  void observe_copies(std::function<void(BlockId from, BlockId to, std::size_t tokens)> observe);
  // Writes what is cached, of Normal or High priority and without a ttl, to the durable tiers, to survive the loss of
  // power; what was invalidated does not come back then. All full blocks that can be found count as cached, those of
  // running requests too. The destructor does so as well, for a few seconds. Ok: all of it is there, also without
  // tiers. Unavailable: a tier failed, needed longer, or has no room for all of it.
  Status flush(std::uint64_t timeout_ms = 60'000);

  // Has the system back the next piece (at most 2 MiB) of the arena's memory, as far as KvCacheOptions::prefault_bytes
  // goes, so that nobody who writes a block waits for that. For moments when nothing else is to be done; false: nothing
  // is left to do. May run beside every other call.
  bool prefault();

  // Start of a block's bytes in the arena, 64-byte aligned (4096 where the block size allows).
  std::byte* block(BlockId id) const;
  const KvLayout& layout() const;
  KvCacheStats stats() const;
  KvRoom room() const;

 private:
  friend class KvCacheState;
  explicit KvCache(std::shared_ptr<KvCacheState> state);
  std::shared_ptr<KvCacheState> state_;
};

}  // namespace tiercel
