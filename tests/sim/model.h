// What the KV cache should answer, in the plainest way: a map of token strings, and lists of who holds what.
//
// The model does not predict which block is evicted. It is told what left the index (on_remove, through the eviction
// policy), says whether that was allowed, and what follows from what is left.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kv/content_key.h"
#include "tests/sim/tally.h"
#include "tiercel/eviction_policy.h"
#include "tiercel/kv_cache.h"

namespace tiercel::sim {

// Tokens, a character each.
using Text = std::string;

struct Scope {
  std::string salt;
  std::uint64_t adapter_id = 0;
  operator PrefixScope() const { return {.salt = salt, .adapter_id = adapter_id}; }
};
inline constexpr std::size_t kScopes = 5;
inline constexpr std::size_t kModels = 2;  // whose fingerprints share a disk
const Scope& scope_of(std::size_t index);

struct Shape {
  std::size_t capacity_blocks = 0;
  std::size_t block_tokens = 0;
  std::vector<std::size_t> windows = {};  // of the groups after the first, in tokens
  bool prefix_reuse = true;
  bool quotas = false;
  std::size_t default_quota_blocks = 0;  // 0: none
  bool tiers = false;                    // then each computing of a block leaves other bytes (model_tiers.cc)
};

// A use that the policy is to be told of, and what it means for the block.
struct Use {
  BlockId block = kNoBlock;
  Retention retention = {};
  bool keeps_time = false;  // it has no more time to live than it had
};

// What the cache knows of one block of its index.
struct CachedBlock {
  static constexpr std::uint64_t kUnused = 0;
  static constexpr std::uint64_t kForever = UINT64_MAX;

  BlockId block = kNoBlock;  // kNoBlock: not there
  RetentionPriority priority = RetentionPriority::Low;
  std::uint64_t expires_ms = kUnused;
  // It was loaded, ahead of need with Low priority or for a prompt, and no request has used it since.
  bool may_be_low = false;

  void use(const Use& use, std::uint64_t now_ms);
  bool is_over(std::uint64_t now_ms) const { return expires_ms != kUnused && expires_ms <= now_ms; }
};

// The blocks of all groups that hold the same tokens. Its path is the scope and all tokens up to their end.
struct Node {
  std::vector<CachedBlock> blocks;   // by group
  std::vector<std::uint64_t> words;  // what their bytes say, by token
  bool copyable = true;              // in parts
};
using Nodes = std::map<Text, Node>;

// The bytes of a block as they were computed once: what a tier may give back.
struct Computed {
  std::vector<std::uint64_t> words;
  bool copyable = true;
};
using ComputedBlocks = std::map<Text, std::vector<Computed>>;  // by path

// What the model knows of a lease.
struct Sequence {
  std::size_t scope = 0;
  Text tokens = {};                       // committed ones
  std::vector<std::uint64_t> words = {};  // by token
  std::size_t max_tokens = 0;
  std::vector<std::vector<BlockId>> tables = {};  // by group
  bool shares = true;
  bool begun_is_copyable = true;  // the block begun, so far
  std::uint64_t epoch = 0;
  Retention retention = {};
  std::size_t matched_blocks = 0;
  std::size_t prompt_blocks = 0;
  bool added_blocks = false;
  // The prompt as far as the lease said it would compute and share it, and whether it still keeps to that.
  Text announced = {};
  bool announces = false;
};

struct Pin {
  std::uint64_t expires_ms = 0;  // 0: never
  std::vector<BlockId> blocks = {};
};

struct Expectation {
  std::size_t scope = 0;
  Text tokens = {};               // whole blocks
  std::size_t cached_tokens = 0;  // as the cache said when it was last asked
};

struct Match {
  std::vector<Nodes::const_iterator> path = {};  // whole blocks
  std::size_t tokens = 0;
  std::set<BlockId> sources = {};  // blocks that the tokens behind the whole blocks may be copied from
};

// What happened during a call of the cache, and what may.
struct Call {
  enum class Kind {
    Quiet,    // nothing leaves the index
    Take,     // blocks may go for the sake of those taken
    Forget,   // just the nodes named go
    Load,     // blocks may go, and others come from a tier
    Ignored,  // the process is dead
  };
  Kind kind = Kind::Quiet;
  std::size_t takes = 0;  // blocks
  std::string_view tenant = {};
  std::set<Text> forgets = {};
  std::vector<Use> expected_uses = {};
  bool ends_pins = false;  // so that uses come in no certain order
  // One more use, of a block that leading tokens are copied from.
  bool copies = false;
  std::set<BlockId> copy_sources = {};
  Retention copy_retention = {};
  BlockId copied_from = kNoBlock;
  std::vector<std::uint64_t> copied_words = {};
  std::vector<std::pair<BlockId, BlockOrigin>> loaded = {};  // to be named by resolve_load()

  std::size_t free_before = 0, tenant_blocks_before = 0;
  std::size_t freed = 0, tenant_freed = 0;
  std::size_t nodes_removed = 0, companions_removed = 0, expired_removed = 0;
  std::size_t uses = 0;
  bool policy_lied = false;
  // Companions that went, and what was wrong with it unless their node is the next to go.
  std::vector<std::pair<Text, std::string>> unjudged = {};
};

class Model {
 public:
  Model(const Shape& shape, Tally& tally);

  const Shape shape;
  std::uint64_t now_ms = 1000;
  Nodes nodes;
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::map<Text, Pin> pins;  // by the deepest node
  std::vector<Expectation> expectations;
  std::map<std::string, std::size_t, std::less<>> quotas;  // by salt, in blocks; those that are not the default
  Call call;
  std::string violation;  // the first broken rule

  // ---- What is there
  std::size_t groups() const { return 1 + shape.windows.size(); }
  std::size_t blocks_for(std::size_t tokens) const { return (tokens + shape.block_tokens - 1) / shape.block_tokens; }
  std::size_t first_block_in_reach(std::size_t group, std::size_t tokens) const;
  Text path_of(std::size_t scope, const Text& tokens, std::size_t blocks) const;
  bool is_cached(BlockId block) const { return places_[block].cached; }
  std::size_t model_number() const { return model_number_; }
  std::vector<std::uint32_t> references() const;
  std::size_t promised() const;
  std::size_t cached_unheld() const;
  std::set<BlockId> pinned() const;
  std::size_t roots() const;
  std::size_t quota_of(std::string_view salt) const;       // SIZE_MAX: none
  std::size_t tenant_blocks(std::string_view salt) const;  // held or cached
  bool has_child(const Text& path) const;
  bool is_expected(const Text& path) const;
  // Calls visit(path, group, block) for all that may be evicted.
  template <class Visit>
  void for_each_evictable(const Visit& visit) const;

  // ---- What the cache should say
  Match match(std::size_t scope, const Text& prompt, std::size_t most_tokens, bool partial_blocks) const;
  // Whole blocks in the tree, lived through or not, whatever the groups say.
  std::size_t tree_tokens(std::size_t scope, const Text& prompt) const;
  StatusCode admission(std::size_t scope, std::size_t total_blocks, std::size_t new_blocks,
                       std::size_t newly_held) const;
  std::size_t newly_held(const std::vector<BlockId>& blocks) const;
  // The blocks that a sequence needs to go on behind `path`.
  std::vector<BlockId> blocks_in_reach(const std::vector<Nodes::const_iterator>& path) const;
  enum class Flight { No, Yes, Maybe };
  Flight in_flight(const Expectation& expectation) const;

  // ---- What the cache was told to do. begin_call() comes first.
  void begin_call(Call::Kind kind, std::size_t scope = 0, std::size_t takes = 0);
  // Compares what happened with what should have; the first difference is the violation. `failed`: for want of memory,
  // so nothing should have.
  void end_call(bool failed = false);
  bool has_overdue_pins() const;
  void end_overdue_pins();
  Sequence& begin_sequence(std::size_t scope, const Match& match, const Text& prompt, const AdmitOptions& options);
  // After an admission that copied: whose bytes its last tokens have.
  void note_copy(Sequence& sequence);
  Sequence& fork_sequence(const Sequence& source, std::size_t max_tokens);
  // The cache took `block` for the end of the sequence's table.
  void take(Sequence& sequence, std::size_t group, BlockId block);
  void commit(Sequence& sequence, const Text& tokens, bool share, bool copyable);
  void end_sequence(std::size_t index);
  void warm(const Match& match, const Retention& retention);
  void add_pin(const Match& match, std::uint64_t ttl_ms);
  std::size_t end_pins_on(std::size_t scope, const Text& prompt);
  // Makes ready for nodes to go that begin with `prefix`; for all of a salt; for all. Returns how many.
  std::size_t forget(std::size_t scope, const Text& prefix);
  std::size_t forget_tenant(std::string_view salt);
  std::size_t forget_all();

  // ---- Tiers (model_tiers.cc)
  // Says of every block that was loaded which one it is; returns how many there were.
  using IsFound = std::function<bool(const Text& path)>;  // by the cache, now
  using Holds = std::function<bool(BlockId block, const std::vector<std::uint64_t>& words)>;
  using KeyOf = std::function<ContentKey(const Text& path)>;
  std::size_t resolve_load(const IsFound& is_found, const Holds& holds, const KeyOf& key_of, bool keys_collide);
  // An admission uses these blocks: returns the tokens in those that were loaded and not used since.
  std::size_t use_loaded(const std::vector<BlockId>& blocks, std::size_t tokens_each);
  bool may_be_given(const Text& path, const std::function<bool(const Computed&)>& matches) const;
  // The process ends, and another one begins, of model `model_number`. What was forgotten since forget_for_good() may
  // come back; with `damaged`, all that ever was.
  void restart(std::size_t model_number, bool damaged);
  void forget_for_good() { forgotten().clear(); }
  std::uint64_t loaded_blocks = 0, useful_blocks = 0, wasted_blocks = 0;

  // ---- What the policy was told
  void on_insert(BlockId block, const BlockOrigin& origin);
  void on_use(BlockId block);
  void on_remove(BlockId block);
  void on_victim_asked() { judge_companions(); }

 private:
  struct Place {
    bool cached = false;
    Nodes::iterator node = {};
    std::size_t group = 0;
  };

  void violate(std::string what);
  std::uint64_t epoch_of(std::size_t scope) const;
  CachedBlock& cached_block(BlockId block) { return places_[block].node->second.blocks[places_[block].group]; }
  bool is_expired(const CachedBlock& block, const std::vector<std::uint32_t>& references) const;
  void enter(Nodes::iterator node, std::size_t group, BlockId block, bool starts_segment, const Sequence& sequence,
             std::size_t position);
  bool share_full_block(Sequence& sequence, std::size_t position);
  void give_up_out_of_reach(Sequence& sequence);
  void end_pin(std::map<Text, Pin>::iterator pin);
  template <class Condition>
  std::size_t forget_if(const Condition& condition, bool with_all_behind = false);
  std::string verdict_on(BlockId block, const std::vector<std::uint32_t>& references);
  void judge_companions();

  std::uint64_t next_word(std::uint64_t word, char token) const;
  ComputedBlocks& computed() { return computed_[model_number_]; }
  ComputedBlocks& forgotten() { return forgotten_[model_number_]; }
  void forget_computed(const std::function<bool(const Text& path)>& condition, bool with_all_behind);

  struct ExpectedInsert {
    BlockId block = kNoBlock;
    std::size_t group = 0;
    BlockOrigin origin = {};
    Text path = {};
  };

  Tally& tally_;
  std::vector<Place> places_;                    // by block
  std::vector<std::string_view> tenants_;        // by block; of whom it was taken
  std::map<std::size_t, std::uint64_t> epochs_;  // by scope
  std::vector<ExpectedInsert> expected_inserts_;
  std::map<std::pair<Text, std::size_t>, std::uint64_t> contents_;  // BlockOrigin::content by path and group

  std::size_t model_number_ = 0;
  std::uint64_t commits_ = 0;
  ComputedBlocks computed_[kModels];   // and not forgotten since
  ComputedBlocks forgotten_[kModels];  // since they were last forgotten for good
  ComputedBlocks ever_forgotten_[kModels];
  // Forgotten with what was before them, and not with all of their tenant or model since.
  ComputedBlocks forgotten_behind_[kModels];
  // What is damaged stays so: any later process may be the first to miss an erasure there.
  ComputedBlocks forgotten_before_damage_[kModels];
  std::set<BlockId> loaded_unused_;  // since they were loaded
};

// How far an evictable block should be from eviction.
inline int rank_of(RetentionPriority priority, bool expected) { return expected ? 3 : static_cast<int>(priority); }

template <class Visit>
void Model::for_each_evictable(const Visit& visit) const {
  const std::vector<std::uint32_t> counts = references();
  for (const auto& [path, node] : nodes) {
    const bool leaf = !has_child(path);
    for (std::size_t group = 0; group < groups(); ++group) {
      const CachedBlock& block = node.blocks[group];
      if (block.block != kNoBlock && counts[block.block] == 0 && (group > 0 || leaf)) visit(path, group, block);
    }
  }
}

}  // namespace tiercel::sim
