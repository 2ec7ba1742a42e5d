// What stands behind KvCache, Lease and ExpectedPrompt: arena, block pool, prefix index and eviction under one mutex.
//
// Invariants, true whenever the mutex is free:
//   - a block is free, or leased (a lease's table or a pin names it), or cached (in the index, named by none);
//   - who holds an indexed block holds every tree block before it, so the cached blocks that nobody holds form whole
//     subtrees: evicting leaf after leaf reaches all of them;
//   - promised blocks <= free + cached blocks, so a lease can always take what it was promised;
//   - evictable are the cached blocks without children, and the cached companions (blocks of a window group).
//
// In files by what happens: kv_cache_admission.cc begins a lease, kv_cache_lease.cc carries it on and ends it,
// kv_cache_continuation.cc guesses how it goes on, kv_cache_demotion.cc ends it where its sequence will go on,
// kv_cache_eviction.cc makes room, kv_cache_retention.cc has what is wished for (pins, expected prompts) and what is
// forgotten, kv_cache_audit.cc the recount for tests.
//
// Thread-safety: every public method may be called from any thread; calls for one lease come one at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kv/block_memory.h"
#include "kv/block_pool.h"
#include "kv/content_key.h"
#include "kv/eviction_order.h"
#include "kv/prefix_frontier.h"
#include "kv/prefix_index.h"
#include "kv/tail_table.h"
#include "kv/tenant_ledger.h"
#include "kv/tier_manager.h"
#include "kv/trace_recorder.h"
#include "kv/write_choice.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

// What tests replace.
struct KvCacheSeams {
  KeyFunction key_function = xxh3_key;
  std::function<std::uint64_t()> now_ms = {};  // empty: the steady clock
  std::function<double()> tier_now_s = {};     // empty: the steady clock
  bool background_thread = true;               // false: the test calls TierManager::run_one()
};

// The inside of a Lease. Gives everything back when it ends, if it was admitted (`cache` is set).
struct LeaseState {
  LeaseState() = default;
  LeaseState(const LeaseState&) = delete;
  LeaseState& operator=(const LeaseState&) = delete;
  ~LeaseState();

  std::shared_ptr<KvCacheState> cache;
  // The block tables: of the first group, and of the others. With room for all promised blocks.
  std::vector<BlockId> blocks;
  std::vector<std::vector<BlockId>> windows;
  std::size_t promised_blocks = 0;  // and not yet taken
  std::size_t max_tokens = 0;
  std::size_t matched_tokens = 0;
  std::size_t committed_tokens = 0;
  Retention retention;
  TenantId tenant = kNoTenant;

  NodeId root = kNoNode;    // kNoNode: the cache keeps no prefixes
  std::uint64_t epoch = 0;  // the root's when this was admitted
  // While every full block so far is in the index: the committed tokens of the block not yet full.
  bool shares = false;
  std::vector<TokenId> open_tokens;
  bool open_copyable = true;  // so far
  // The prompt's blocks that it said it would compute and share, from block `first_announced` on, and its place among
  // those who compute.
  std::vector<TokenId> announced;
  std::size_t first_announced = 0;
  PrefixFrontier frontier;
  // For BlockOrigin.
  std::size_t matched_blocks = 0;
  std::size_t prompt_blocks = 0;
  bool added_blocks = false;
  // A load, which brings blocks from a tier and is no request; kNoTier: a request.
  TierId load_tier = kNoTier;
  std::shared_ptr<TierLoad> load;  // of a request: from the back, while it computes; null: none
  std::uint64_t forgotten = 0;     // KvCacheState::forgotten_ when this was admitted
  // Of the matched tokens, those in blocks that a tier gave and nobody had used since. By tier; empty: none.
  std::vector<std::size_t> matched_tokens_from;

  struct TraceNote {
    std::uint64_t timestamp_ms = 0;
    std::size_t input_length = 0;
    std::vector<std::uint64_t> prompt_ids;
    std::vector<std::uint64_t> output_ids;  // with room for all
  };
  std::unique_ptr<TraceNote> trace;  // null: not recorded
};

// The inside of an ExpectedPrompt.
struct ExpectedState {
  ExpectedState() = default;
  ExpectedState(const ExpectedState&) = delete;
  ExpectedState& operator=(const ExpectedState&) = delete;
  ~ExpectedState();

  std::shared_ptr<KvCacheState> cache;
  NodeId root = kNoNode;
  std::span<const TokenId> tokens;  // the user's, cut to whole blocks
  std::vector<BlockId> blocks;      // the cached ones, in order; with room for all
  PrefixFrontier frontier;          // the block behind them
  std::shared_ptr<TierLoad> load;
  std::size_t awaited_tokens = 0;
  ExpectedState* next = nullptr;  // in the list of all
  ExpectedState* previous = nullptr;
};

class KvCacheState : public std::enable_shared_from_this<KvCacheState> {
 public:
  // As KvCache::open(), with tiers that are stores already. `memory`: where blocks are to be, instead of capacity_bytes
  // of the host's.
  static Result<KvCache> open(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
                              std::span<const KvGroup> groups, KvCacheSeams seams = {},
                              std::shared_ptr<const BlockMemory> memory = nullptr);
  // The same with the tiers of options.memory_tier_bytes and disk_dir too.
  static Result<KvCache> open_with_tiers(const KvCacheOptions& options, const KvLayout& layout,
                                         const Fingerprint& fingerprint, std::span<const KvGroup> groups,
                                         std::shared_ptr<const BlockMemory> memory);
  static KvCacheState& of(const KvCache& cache) { return *cache.state_; }
  // Ends what goes on in the background. When the KvCache goes: leases that outlive it have no tiers.
  void close();

  KvCacheState(const KvCacheOptions& options, const KvLayout& layout, const Fingerprint& fingerprint,
               std::span<const KvGroup> groups, KvCacheSeams seams, std::shared_ptr<const BlockMemory> memory,
               std::unique_ptr<EvictionPolicy> policy, std::unique_ptr<TraceRecorder> recorder);

  // As the methods of KvCache, Lease and ExpectedPrompt with these names.
  // `load_tier`: a load from there; it counts as no request.
  Result<Lease> admit(std::span<const TokenId> prompt, const AdmitOptions& options, ExpectedState* expected = nullptr,
                      TierId load_tier = kNoTier);
  // A load that displaces nothing: Unavailable where blocks would have to be evicted for it.
  Result<Lease> admit_into_free(std::span<const TokenId> prompt, const AdmitOptions& options, TierId load_tier);
  std::size_t demote(Lease lease);
  std::size_t missing_blocks(const ExpectedState* expected, std::size_t max_tokens,
                             std::span<const Lease* const> ended);
  std::size_t lookup(std::span<const TokenId> prompt, const AdmitOptions& options);
  ExpectedPrompt expect(std::span<const TokenId> prompt, const AdmitOptions& options);
  std::size_t warm(std::span<const TokenId> prompt, const AdmitOptions& options);
  Result<std::size_t> pin(std::span<const TokenId> prompt, const PrefixScope& scope, std::uint64_t ttl_ms);
  std::size_t unpin(std::span<const TokenId> prompt, const PrefixScope& scope);
  std::size_t invalidate(std::span<const TokenId> prefix, const PrefixScope& scope);
  std::size_t invalidate_tenant(std::string_view salt);
  std::size_t invalidate_all();
  Status set_tenant_quota(std::string_view salt, std::size_t quota_bytes);
  Status flush(std::uint64_t timeout_ms);
  void report_prefill(std::size_t tokens, std::size_t position, double seconds);
  void notify_transfers(std::function<void()> notify);
  void observe_copies(std::function<void(BlockId, BlockId, std::size_t)> observe);
  KvCacheStats stats();
  KvRoom room();
  bool prefault();
  std::byte* block(BlockId id) const { return memory_->block(id); }
  const BlockMemory& memory() const { return *memory_; }
  const KvLayout& layout() const { return layout_; }

  Status grow(LeaseState& lease, std::size_t tokens);
  void commit(LeaseState& lease, std::span<const TokenId> tokens, bool share, bool copyable);
  std::size_t extend(LeaseState& lease);
  std::size_t continuation(const LeaseState& lease, std::span<const TokenId> next, std::span<TokenId> out);
  Result<Lease> fork(const LeaseState& source, std::size_t max_tokens);
  void release(LeaseState& lease);
  // A tier has read, or taken, what somebody may wait for. Not under a lock.
  void on_transferred();

  std::size_t cached_tokens(const ExpectedState& expected) const;
  bool in_flight(const ExpectedState& expected) const;
  void release(ExpectedState& expected);

  // Recounts everything from scratch against the invariants above, as far as they can be seen without the leases. Empty
  // when all is well, else what is wrong. Slow; for tests.
  std::string audit();
  // References of every block, 0 for free ones. For tests.
  std::vector<std::uint32_t> references() const;
  // Null without tiers. For tests.
  TierManager* tiers() const { return tiers_.get(); }
  // Salts and adapters that leases, expected prompts or cached blocks keep alive. For tests.
  std::size_t roots() const;
  // Blocks held by or cached for a tenant; 0 without quotas. For tests.
  std::size_t tenant_blocks(std::string_view salt) const;

 private:
  friend class TierManager;  // these hold and read blocks as leases do
  friend class TierWorker;
  friend class TierLoader;
  friend class TierWriteBatch;

  struct Match {
    NodeId node = kNoNode;   // deepest block found, or the root
    std::size_t blocks = 0;  // on the way from the root to it
    PrefixIndex::CommonPrefix partial;
    std::size_t tokens = 0;  // in all
  };
  struct Pin {
    std::uint64_t expires_ms = 0;      // 0: never
    std::vector<BlockId> blocks = {};  // held, parents first
  };
  using Pins = std::map<BlockId, Pin>;  // by the deepest tree block pinned
  // A lease that holds its blocks until they are in a tier, or no longer worth waiting for.
  struct Demotion {
    std::unique_ptr<LeaseState> lease;
    TierDemotion write;
  };

  // Empty where there is no memory for them.
  std::vector<KvTierStats> tier_stats() const;
  std::size_t blocks_for(std::size_t tokens) const;
  // The first block that a sequence of so many tokens needs in `group` to go on.
  std::size_t first_block_in_reach(std::size_t group, std::size_t tokens) const;
  // Fills `path` with the whole blocks found.
  Match match(std::span<const TokenId> prompt, const AdmitOptions& options, std::vector<BlockId>& path);
  // Appends the whole blocks behind `node` that are found and whose time is not over.
  void walk_live(NodeId node, std::span<const TokenId> tokens, std::uint64_t now, std::vector<BlockId>& path);
  // How many of the path's blocks can be reused in all groups.
  std::size_t valid_blocks(std::span<const BlockId> path, std::uint64_t now) const;
  // Calls visit(companion) for each block that a sequence needs beside `path` to go on behind it.
  template <class Visit>
  void for_each_companion_in_reach(std::span<const BlockId> path, const Visit& visit) const;
  Status check_claim(std::size_t new_blocks, std::size_t newly_held, TenantId tenant) const;
  // As check_claim() for a lease that holds what was matched.
  Status claim_for(const LeaseState& lease, std::size_t new_blocks, TenantId tenant);
  void note_use_of_loaded(LeaseState& lease, BlockId block, std::size_t tokens);
  // Fills `path` with the leading blocks on the way to `leaf` that may be kept in tiers. False: none.
  bool path_to_keep(BlockId leaf, std::vector<BlockId>& path) const;
  // Offers the tiers what is next to be evicted, where room is short and they are to have it.
  void offer_what_leaves();
  // Names a tenant to the tiers.
  std::uint64_t tenant_name(std::string_view salt) const;
  // Makes what is forgotten leave the tiers too, and ends the sharing of loads under way.
  void erase_from_tiers(TierErasure::Kind kind, const PrefixScope& scope = {}, std::span<const TokenId> prefix = {});

  // Puts the lease's block that `open_tokens` just filled into the index, or swaps it for the equal one there. `tier`
  // gave it; kNoTier: it was computed.
  void share_full_block(LeaseState& lease, std::size_t position, TierId tier);
  // Takes in the blocks that the lease's load has read; they begin where the lease ends.
  void join_loaded(LeaseState& lease);
  void share_companions(LeaseState& lease, std::size_t position, const BlockOrigin& origin);
  void give_up_out_of_reach(LeaseState& lease);
  // For continuation(): how a sequence ended behind its last full block.
  void remember_tail(const LeaseState& lease);
  void announce_next_block(LeaseState& lease);
  Status copy_leading_tokens(BlockId from, BlockId to, std::size_t tokens);
  void begin_trace(LeaseState& lease, std::span<const TokenId> prompt, const AdmitOptions& options) const;
  void end_trace(const LeaseState& lease) const;

  void hold(BlockId block);
  // One reference less; the block is then someone else's, cached or free.
  void drop(BlockId block);
  void use(BlockId block, const Retention& retention, std::uint64_t now);
  void mark_unused(BlockId block);
  void make_evictable(BlockId block);
  void give_back(BlockId block);
  bool is_evictable(BlockId block) const;
  bool is_expired(BlockId block, std::uint64_t now) const;
  // Beyond the end of the clock is as good as never.
  static std::uint64_t end_of_life(std::uint64_t now, std::uint64_t ttl_ms) {
    return ttl_ms > UINT64_MAX - now ? UINT64_MAX : now + ttl_ms;
  }
  // The one place where a block is taken: redeems a promise of the tenant, evicting if need be.
  BlockId take_promised_block(TenantId tenant);
  // The one place where a cached block goes for want of room.
  void evict_one();
  void evict(BlockId block);
  // Gives back a few blocks whose time is over.
  void sweep_expired();
  // Before the first use with a ttl. May throw.
  void prepare_expiry(const Retention& retention);

  // `block` is cached now, behind `parent`: those who wait for it move on.
  void arrive(const ContentKey& key, NodeId parent, std::span<const TokenId> tokens, BlockId block);
  // With windows, what the lease shares at `position` may also close a gap: those who stopped there move on, over what
  // lay behind it all along.
  void notice_return(const LeaseState& lease, std::size_t position);
  // Marks its blocks from `first` on as expected. False where one cannot be: they end before it.
  bool expect_from(ExpectedState& expected, std::size_t first);
  void await_next_block(ExpectedState& expected);
  // A tree leaf leaves the index: those who counted on it step back.
  void retreat_expectations(BlockId leaf);
  void expire_pins(std::uint64_t now);
  Pins::iterator end_pin(Pins::iterator pin);
  // Gives back what those hold that are through, or not worth waiting for any more. Takes the lock.
  void end_demotions(bool all = false);
  std::size_t forget_subtree(BlockId top);
  std::size_t forget_root(NodeId root);
  void forget_leaf(BlockId leaf);

  const KvLayout layout_;
  const std::vector<KvGroup> groups_;
  const bool prefix_reuse_;
  const Fingerprint fingerprint_;
  const KvCacheSeams seams_;
  const std::shared_ptr<const BlockMemory> memory_;
  const std::size_t prefault_bytes_;
  std::atomic<std::size_t> prefaulted_bytes_ = 0;  // of the arena, from its start on; all of it once the system refused
  const std::unique_ptr<TraceRecorder> recorder_;  // null: nothing is recorded

  mutable std::mutex mutex_;  // guards everything below
  BlockPool pool_;
  PrefixIndex index_;
  TailTable tails_;
  EvictionOrder order_;
  std::optional<TenantLedger> tenants_;    // empty: no quotas
  std::vector<std::uint64_t> expires_ms_;  // by block; of one group, empty until something has a ttl
  BlockId sweep_hand_ = 0;
  Pins pins_;
  std::uint64_t next_pin_expiry_ms_ = UINT64_MAX;
  std::vector<std::uint16_t> pin_counts_;  // by block; empty until something is pinned
  std::size_t pinned_blocks_ = 0;
  std::vector<TierId> loaded_from_;    // by block, until a request uses it; empty without tiers
  std::optional<WriteChoice> writes_;  // empty without tiers
  std::uint64_t forgotten_ = 0;        // invalidations; a load that began before one shares nothing any more
  PrefixFrontierTable computing_;      // of leases
  PrefixFrontierTable awaited_;        // of expected prompts
  ExpectedState* first_expected_ = nullptr;
  std::uint64_t admitted_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t matched_tokens_ = 0;
  std::uint64_t copied_tokens_ = 0;
  std::uint64_t evicted_blocks_ = 0;
  std::uint64_t expired_blocks_ = 0;
  std::uint64_t loaded_blocks_ = 0;
  std::uint64_t useful_blocks_ = 0;  // of the loaded ones
  std::uint64_t wasted_blocks_ = 0;
  std::vector<std::uint64_t> tier_hits_;                             // tokens, by tier
  std::function<void(BlockId, BlockId, std::size_t)> observe_copy_;  // empty: nobody asks
  std::vector<Demotion> demotions_;
  std::size_t demoting_blocks_ = 0;  // that they hold

  std::mutex notify_mutex_;  // guards notify_; nothing is locked under it
  std::function<void()> notify_;

  std::unique_ptr<TierManager> tiers_;  // null: none. Has a lock of its own
};

template <class Visit>
void KvCacheState::for_each_companion_in_reach(std::span<const BlockId> path, const Visit& visit) const {
  for (std::size_t group = 1; group < groups_.size(); ++group) {
    const std::size_t first = first_block_in_reach(group, path.size() * layout_.block_tokens);
    for (std::size_t i = first; i < path.size(); ++i) visit(index_.companion(path[i], group));
  }
}

}  // namespace tiercel
