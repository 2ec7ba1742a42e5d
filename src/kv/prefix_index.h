// Finds blocks by the tokens they were computed from: a forest of token blocks, one tree per (salt, adapter).
//
// A child is looked up in a hash map by its 128-bit key and taken only if its stored tokens and its parent are the ones
// asked for; roots are told apart by their whole salt and adapter id. So answers are exact whatever the hash function
// does: blocks of equal keys and unequal content live side by side.
//
// All per-block data lie in flat arrays made at construction: 40 bytes and the tokens per block, and at most 8 bytes of
// hash buckets. Finding, inserting and removing a block allocate nothing.
//
// Knows nothing of references: the owner holds a block's ancestors as long as it holds the block, and removes only
// leaves that nobody holds. Not synchronised: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kv/content_key.h"
#include "tiercel/types.h"

namespace tiercel {

// A place in the forest: the block with that id, or a root.
using NodeId = std::uint32_t;
inline constexpr NodeId kNoNode = 0xffffffffu;

class PrefixIndex {
 public:
  // Block ids are below `capacity_blocks`, which is at most kMostBlocks.
  static constexpr std::size_t kMostBlocks = 0x7fffffffu;
  PrefixIndex(std::size_t capacity_blocks, std::uint32_t block_tokens, const Fingerprint& fingerprint,
              KeyFunction key_function);

  // The root of (salt, adapter_id), or kNoNode when nothing is cached or held under it.
  NodeId find_root(std::string_view salt, std::uint64_t adapter_id) const;
  // The same, made if need be; it stays until it was dropped as often as held and has no blocks.
  NodeId hold_root(std::string_view salt, std::uint64_t adapter_id);
  void drop_root(NodeId root);

  // The block that follows `parent` with exactly these block_tokens tokens, or kNoBlock.
  BlockId find_child(NodeId parent, std::span<const TokenId> tokens);
  struct CommonPrefix {
    BlockId block = kNoBlock;
    std::size_t tokens = 0;  // 0 where block is kNoBlock
  };
  // The block after `parent` that has the most leading tokens in common with `tokens`. Looks at every child.
  CommonPrefix closest_child(NodeId parent, std::span<const TokenId> tokens) const;

  // Adds `block`, which must not be in the index, after `parent`, which must not have an equal child yet.
  void insert(NodeId parent, std::span<const TokenId> tokens, BlockId block);
  // Removes a block without children; returns its parent.
  NodeId remove_leaf(BlockId block);
  // Removes every block; calls nothing, roots that are held stay.
  void clear();

  static bool is_root(NodeId node) { return node != kNoNode && (node & kRootBit) != 0; }
  bool contains(BlockId block) const { return entries_[block].parent != kNoNode; }
  bool is_leaf(BlockId block) const { return entries_[block].first_child == kNoBlock; }
  NodeId parent(BlockId block) const { return entries_[block].parent; }
  std::span<const TokenId> tokens(BlockId block) const;

  std::size_t size() const { return size_; }
  std::size_t roots() const { return root_ids_.size(); }
  // Blocks met under the key asked for that stood for something else.
  std::uint64_t compare_mismatches() const { return compare_mismatches_; }
  std::size_t metadata_bytes() const;

 private:
  static constexpr NodeId kRootBit = 0x80000000u;
  using Scope = std::pair<std::string, std::uint64_t>;  // salt, adapter id

  struct Entry {
    ContentKey key;
    NodeId parent = kNoNode;  // kNoNode: not in the index
    BlockId first_child = kNoBlock;
    BlockId next_sibling = kNoBlock;
    BlockId previous_sibling = kNoBlock;
    BlockId next_in_bucket = kNoBlock;
  };
  struct Root {
    std::map<Scope, NodeId>::iterator place;
    ContentKey key;
    BlockId first_child = kNoBlock;
    std::uint32_t holders = 0;
  };

  Root& root_at(NodeId root) { return roots_[root & ~kRootBit]; }
  const Root& root_at(NodeId root) const { return roots_[root & ~kRootBit]; }
  const ContentKey& key_of(NodeId node) const { return is_root(node) ? root_at(node).key : entries_[node].key; }
  BlockId& first_child_of(NodeId node) {
    return is_root(node) ? root_at(node).first_child : entries_[node].first_child;
  }
  BlockId& bucket_of(const ContentKey& key) { return buckets_[key.low & (buckets_.size() - 1)]; }
  void erase_root_if_unused(NodeId root);

  const std::uint32_t block_tokens_;
  const Fingerprint fingerprint_;
  const KeyFunction key_function_;
  std::vector<Entry> entries_;    // by block
  std::vector<TokenId> tokens_;   // block_tokens_ per block
  std::vector<BlockId> buckets_;  // a power of two of them; first block of each
  std::vector<Root> roots_;
  std::vector<NodeId> unused_roots_;
  std::map<Scope, NodeId> root_ids_;
  std::size_t size_ = 0;
  std::uint64_t compare_mismatches_ = 0;
};

}  // namespace tiercel
