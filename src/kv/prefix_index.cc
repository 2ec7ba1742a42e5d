#include "kv/prefix_index.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

namespace tiercel {

PrefixIndex::PrefixIndex(std::size_t capacity_blocks, std::uint32_t block_tokens, const Fingerprint& fingerprint,
                         KeyFunction key_function, std::size_t groups)
    : block_tokens_(block_tokens),
      fingerprint_(fingerprint),
      key_function_(key_function),
      entries_(capacity_blocks),
      tokens_(capacity_blocks * block_tokens),
      copyable_(capacity_blocks),
      buckets_(std::bit_ceil(capacity_blocks), kNoBlock),
      companions_(groups - 1, BlockArray<BlockId>(capacity_blocks, kNoBlock)) {
  assert(capacity_blocks <= kMostBlocks);
}

NodeId PrefixIndex::find_root(std::string_view salt, std::uint64_t adapter_id) const {
  const auto found = root_ids_.find(ScopeView(salt, adapter_id));
  return found == root_ids_.end() ? kNoNode : found->second;
}

NodeId PrefixIndex::hold_root(std::string_view salt, std::uint64_t adapter_id) {
  NodeId root = find_root(salt, adapter_id);
  if (root == kNoNode) {
    // Everything that may throw comes before the first change.
    const ContentKey key = root_key(key_function_, fingerprint_, salt, adapter_id);
    unused_roots_.reserve(roots_.size() + 1);
    if (unused_roots_.empty()) {
      roots_.emplace_back();
      unused_roots_.push_back(static_cast<NodeId>(roots_.size() - 1) | kRootBit);
    }
    root = unused_roots_.back();
    const auto place = root_ids_.emplace(Scope(salt, adapter_id), root).first;
    unused_roots_.pop_back();
    root_at(root) = {.place = place, .key = key};
  }
  ++root_at(root).holders;
  return root;
}

void PrefixIndex::drop_root(NodeId root) {
  assert(root_at(root).holders > 0);
  --root_at(root).holders;
  erase_root_if_unused(root);
}

void PrefixIndex::erase_root_if_unused(NodeId root) {
  Root& gone = root_at(root);
  if (gone.holders > 0 || gone.first_child != kNoBlock) return;
  root_ids_.erase(gone.place);
  unused_roots_.push_back(root);
}

ContentKey PrefixIndex::key_after(NodeId parent, std::span<const TokenId> tokens) const {
  return child_key(key_function_, key_of(parent), tokens);
}

BlockId PrefixIndex::find_child(NodeId parent, const ContentKey& key, std::span<const TokenId> tokens) {
  assert(tokens.size() == block_tokens_);
  for (BlockId block = bucket_of(key); block != kNoBlock; block = entries_[block].next_in_bucket) {
    if (entries_[block].key != key) continue;
    if (entries_[block].parent == parent && std::ranges::equal(this->tokens(block), tokens)) return block;
    ++compare_mismatches_;
  }
  return kNoBlock;
}

void PrefixIndex::insert(NodeId parent, std::span<const TokenId> tokens, BlockId block) {
  insert(parent, key_after(parent, tokens), tokens, block);
}

void PrefixIndex::insert(NodeId parent, const ContentKey& key, std::span<const TokenId> tokens, BlockId block,
                         bool copyable) {
  assert(!contains(block) && tokens.size() == block_tokens_);
  std::ranges::copy(tokens, tokens_.begin() + std::size_t{block} * block_tokens_);
  copyable_[block] = copyable;

  BlockId& first_child = first_child_of(parent);
  BlockId& bucket = bucket_of(key);
  entries_[block] = {.key = key, .parent = parent, .next_sibling = first_child, .next_in_bucket = bucket};
  if (first_child != kNoBlock) entries_[first_child].previous_sibling = block;
  first_child = block;
  bucket = block;
  ++size_;
}

NodeId PrefixIndex::remove_leaf(BlockId block) {
  assert(contains(block) && is_leaf(block));
  const Entry gone = std::exchange(entries_[block], Entry{});

  BlockId* link = &bucket_of(gone.key);
  while (*link != block) link = &entries_[*link].next_in_bucket;
  *link = gone.next_in_bucket;

  if (gone.next_sibling != kNoBlock) entries_[gone.next_sibling].previous_sibling = gone.previous_sibling;
  if (gone.previous_sibling != kNoBlock) {
    entries_[gone.previous_sibling].next_sibling = gone.next_sibling;
  } else {
    first_child_of(gone.parent) = gone.next_sibling;
  }
  --size_;
  if (is_root(gone.parent)) erase_root_if_unused(gone.parent);
  return gone.parent;
}

void PrefixIndex::attach(BlockId owner, std::size_t group, BlockId block) {
  assert(contains(owner) && !is_companion(owner) && !contains(block) && companion(owner, group) == kNoBlock);
  companions_[group - 1][owner] = block;
  entries_[block] = {.key = entries_[owner].key, .parent = owner, .first_child = kCompanion};
}

void PrefixIndex::detach(BlockId block) {
  assert(is_companion(block));
  const BlockId owner = entries_[block].parent;
  for (BlockArray<BlockId>& of_group : companions_) {
    if (of_group[owner] == block) of_group[owner] = kNoBlock;
  }
  entries_[block] = Entry{};
}

std::span<const TokenId> PrefixIndex::tokens(BlockId block) const {
  return std::span(tokens_).subspan(std::size_t{block} * block_tokens_, block_tokens_);
}

std::size_t PrefixIndex::metadata_bytes() const {
  std::size_t bytes = entries_.capacity() * sizeof(Entry) + tokens_.capacity() * sizeof(TokenId) +
                      copyable_.capacity() / 8 + buckets_.capacity() * sizeof(BlockId) +
                      roots_.capacity() * sizeof(Root) + unused_roots_.capacity() * sizeof(NodeId);
  for (const BlockArray<BlockId>& of_group : companions_) bytes += of_group.capacity() * sizeof(BlockId);
  for (const auto& [scope, root] : root_ids_) bytes += sizeof(scope) + sizeof(root) + scope.first.capacity();
  return bytes;
}

}  // namespace tiercel
