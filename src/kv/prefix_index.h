// Finds blocks by the tokens they were computed from: a forest of token blocks, one tree per (salt, adapter).
//
// A child is looked up in a hash map by its 128-bit key and taken only if its stored tokens and its parent are the ones
// asked for; roots are told apart by their whole salt and adapter id. So answers are exact whatever the hash function
// does: blocks of equal keys and unequal content live side by side.
//
// All per-block data lie in flat arrays made at construction: 40 bytes and the tokens per block, at most 8 bytes of
// hash buckets, and 4 bytes for each group after the first. Finding, inserting and removing a block allocate nothing.
//
// A model whose layers do not all need every token (sliding windows) has several KV groups. The tree is made of the
// first group's blocks, which is full; a block of another group is the companion of the tree block of the same tokens,
// and leaves by itself or with it.
//
// Knows nothing of references: the owner holds a block's ancestors as long as it holds the block, and removes only
// leaves that nobody holds. Not synchronised: the owner locks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kv/content_key.h"
#include "kv/index_allocator.h"
#include "tiercel/types.h"

namespace tiercel {

// A place in the forest: the block with that id, or a root.
using NodeId = std::uint32_t;
inline constexpr NodeId kNoNode = 0xffffffffu;

class PrefixIndex {
 public:
  // Block ids are below `capacity_blocks`, which is at most kMostBlocks.
  static constexpr std::size_t kMostBlocks = std::size_t{1} << 30;
  PrefixIndex(std::size_t capacity_blocks, std::uint32_t block_tokens, const Fingerprint& fingerprint,
              KeyFunction key_function, std::size_t groups = 1);

  // The root of (salt, adapter_id), or kNoNode when nothing is cached or held under it.
  NodeId find_root(std::string_view salt, std::uint64_t adapter_id) const;
  // The same, made if need be; it stays until it was dropped as often as held and has no blocks.
  NodeId hold_root(std::string_view salt, std::uint64_t adapter_id);
  void hold_root_again(NodeId root) { ++root_at(root).holders; }
  void drop_root(NodeId root);
  // Counts the times that everything under a root was forgotten.
  std::uint64_t epoch(NodeId root) const { return root_at(root).epoch; }
  void begin_epoch(NodeId root) { ++root_at(root).epoch; }

  // The key of what follows `parent` with these tokens, block_tokens of them or fewer.
  ContentKey key_after(NodeId parent, std::span<const TokenId> tokens) const;
  // The block of that key that follows `parent` with exactly these block_tokens tokens, or kNoBlock.
  BlockId find_child(NodeId parent, const ContentKey& key, std::span<const TokenId> tokens);
  BlockId find_child(NodeId parent, std::span<const TokenId> tokens) {
    return find_child(parent, key_after(parent, tokens), tokens);
  }
  // Calls visit(child) for the blocks that follow `parent` with these tokens, one after the other, as long as there are
  // any and visit returns true. As find_child() again and again, but a lookup ahead of itself: keys follow from tokens
  // alone, so what later steps will read is on its way from memory while earlier ones compare.
  template <class Visit>
  void walk(NodeId parent, std::span<const TokenId> tokens, const Visit& visit);

  struct CommonPrefix {
    BlockId block = kNoBlock;
    std::size_t tokens = 0;  // 0 where block is kNoBlock
  };
  // The copyable block after `parent` that has the most leading tokens in common with `tokens`, of those among the
  // newest kMostCompared for which may_use(block) is true.
  static constexpr std::size_t kMostCompared = 64;
  template <class MayUse>
  CommonPrefix closest_child(NodeId parent, std::span<const TokenId> tokens, const MayUse& may_use) const;

  // Adds `block`, which must not be in the index, after `parent`, which must not have an equal child yet.
  void insert(NodeId parent, std::span<const TokenId> tokens, BlockId block);
  void insert(NodeId parent, const ContentKey& key, std::span<const TokenId> tokens, BlockId block,
              bool copyable = true);
  // Removes a tree block without children and companions; returns its parent.
  NodeId remove_leaf(BlockId block);

  // Makes `block`, which must not be in the index, the companion of tree block `owner` in `group` (1 or more), which
  // must have none there yet.
  void attach(BlockId owner, std::size_t group, BlockId block);
  // Removes a companion.
  void detach(BlockId block);
  BlockId companion(BlockId owner, std::size_t group) const { return companions_[group - 1][owner]; }
  bool is_companion(BlockId block) const { return entries_[block].first_child == kCompanion; }

  static bool is_root(NodeId node) { return node != kNoNode && (node & kRootBit) != 0; }
  bool contains(BlockId block) const { return entries_[block].parent != kNoNode; }
  // Of a tree block.
  bool is_leaf(BlockId block) const { return entries_[block].first_child == kNoBlock; }
  // What a tree block follows; the owner of a companion.
  NodeId parent(BlockId block) const { return entries_[block].parent; }
  std::span<const TokenId> tokens(BlockId block) const;
  bool is_copyable(BlockId block) const { return copyable_[block]; }
  const std::string& salt_of(NodeId root) const { return root_at(root).place->first.first; }
  std::uint64_t adapter_of(NodeId root) const { return root_at(root).place->first.second; }
  const ContentKey& key_of(NodeId node) const { return is_root(node) ? root_at(node).key : entries_[node].key; }
  // The children of a node, in no certain order; kNoBlock ends them.
  BlockId first_child(NodeId node) const {
    return is_root(node) ? root_at(node).first_child : entries_[node].first_child;
  }
  BlockId next_sibling(BlockId block) const { return entries_[block].next_sibling; }
  // Calls visit(root) for every root of `salt`. Roots may be dropped meanwhile.
  template <class Visit>
  void for_each_root(std::string_view salt, const Visit& visit);
  template <class Visit>
  void for_each_root(const Visit& visit);

  std::size_t size() const { return size_; }
  std::size_t roots() const { return root_ids_.size(); }
  // Blocks met under the key asked for that stood for something else.
  std::uint64_t compare_mismatches() const { return compare_mismatches_; }
  std::size_t metadata_bytes() const;

 private:
  static constexpr NodeId kRootBit = 0x80000000u;
  static constexpr BlockId kCompanion = 0xfffffffeu;    // as first_child: no tree block, so it has none
  using Scope = std::pair<std::string, std::uint64_t>;  // salt, adapter id
  using ScopeView = std::pair<std::string_view, std::uint64_t>;
  // Roots are found without a copy of the salt: it would take memory, which finding must not need.
  struct ScopeOrder {
    using is_transparent = void;
    bool operator()(const ScopeView& a, const ScopeView& b) const { return a < b; }
  };
  using Roots = std::map<Scope, NodeId, ScopeOrder>;

  struct Entry {
    ContentKey key;
    NodeId parent = kNoNode;  // kNoNode: not in the index
    BlockId first_child = kNoBlock;
    BlockId next_sibling = kNoBlock;
    BlockId previous_sibling = kNoBlock;
    BlockId next_in_bucket = kNoBlock;
  };
  struct Root {
    Roots::iterator place;
    ContentKey key;
    BlockId first_child = kNoBlock;
    std::uint32_t holders = 0;
    std::uint64_t epoch = 0;
  };

  Root& root_at(NodeId root) { return roots_[root & ~kRootBit]; }
  const Root& root_at(NodeId root) const { return roots_[root & ~kRootBit]; }
  BlockId& first_child_of(NodeId node) {
    return is_root(node) ? root_at(node).first_child : entries_[node].first_child;
  }
  BlockId& bucket_of(const ContentKey& key) { return buckets_[key.low & (buckets_.size() - 1)]; }
  void prefetch_tokens(BlockId block) const {
    constexpr std::size_t kCacheLine = 64;
    const auto* stored = reinterpret_cast<const std::byte*>(&tokens_[std::size_t{block} * block_tokens_]);
    for (std::size_t i = 0; i < block_tokens_ * sizeof(TokenId); i += kCacheLine) __builtin_prefetch(stored + i);
  }
  void erase_root_if_unused(NodeId root);

  const std::uint32_t block_tokens_;
  const Fingerprint fingerprint_;
  const KeyFunction key_function_;
  BlockArray<Entry> entries_;                    // by block
  BlockArray<TokenId> tokens_;                   // block_tokens_ per block
  BlockArray<bool> copyable_;                    // by block: whether a part of it may be copied
  BlockArray<BlockId> buckets_;                  // a power of two of them; first block of each
  std::vector<BlockArray<BlockId>> companions_;  // by group after the first, then by owner
  std::vector<Root> roots_;
  std::vector<NodeId> unused_roots_;
  Roots root_ids_;
  std::size_t size_ = 0;
  std::uint64_t compare_mismatches_ = 0;
};

template <class Visit>
void PrefixIndex::walk(NodeId parent, std::span<const TokenId> tokens, const Visit& visit) {
  constexpr std::size_t kMostAhead = 32;
  ContentKey keys[kMostAhead];
  // Few at first: most walks that end early end at their first block.
  for (std::size_t ahead = 2;; ahead = kMostAhead) {
    const std::size_t count = std::min(ahead, tokens.size() / block_tokens_);
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = child_key(key_function_, i == 0 ? key_of(parent) : keys[i - 1],
                          tokens.subspan(i * block_tokens_, block_tokens_));
      __builtin_prefetch(&bucket_of(keys[i]));
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (const BlockId first = bucket_of(keys[i]); first != kNoBlock) __builtin_prefetch(&entries_[first]);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const BlockId first = bucket_of(keys[i]);
      if (first == kNoBlock) continue;
      const BlockId second = entries_[first].next_in_bucket;
      if (entries_[first].key == keys[i]) {
        prefetch_tokens(first);
      } else if (second != kNoBlock) {
        __builtin_prefetch(&entries_[second]);
        prefetch_tokens(second);
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      const BlockId child = find_child(parent, keys[i], tokens.first(block_tokens_));
      if (child == kNoBlock || !visit(child)) return;
      parent = child;
      tokens = tokens.subspan(block_tokens_);
    }
  }
}

template <class MayUse>
PrefixIndex::CommonPrefix PrefixIndex::closest_child(NodeId parent, std::span<const TokenId> tokens,
                                                     const MayUse& may_use) const {
  CommonPrefix best;
  std::size_t left = kMostCompared;
  for (BlockId block = first_child(parent); block != kNoBlock && left > 0;
       block = entries_[block].next_sibling, --left) {
    if (!copyable_[block]) continue;
    const std::span<const TokenId> stored = this->tokens(block);
    const auto end = std::ranges::mismatch(stored, tokens).in1;
    const auto common = static_cast<std::size_t>(end - stored.begin());
    if (common > best.tokens && may_use(block)) best = {.block = block, .tokens = common};
  }
  return best;
}

template <class Visit>
void PrefixIndex::for_each_root(std::string_view salt, const Visit& visit) {
  auto next = root_ids_.lower_bound(ScopeView(salt, 0));
  while (next != root_ids_.end() && next->first.first == salt) visit((next++)->second);
}

template <class Visit>
void PrefixIndex::for_each_root(const Visit& visit) {
  for (auto next = root_ids_.begin(); next != root_ids_.end();) visit((next++)->second);
}

}  // namespace tiercel
