#include "text/byte_pair_merger.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>

namespace tiercel {

BytePairMerger::BytePairMerger(std::size_t count) : slots_(std::bit_ceil(2 * count + 2), kNone) {
  merges_.reserve(count);
}

// Where the pair's rank is, or would be.
std::size_t BytePairMerger::slot_of(TokenId left, TokenId right) const {
  const std::uint64_t key =
      static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  const std::uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = (mixed >> 32) & mask;; slot = (slot + 1) & mask) {
    const std::uint32_t rank = slots_[slot];
    if (rank == kNone || (merges_[rank].left == left && merges_[rank].right == right)) return slot;
  }
}

bool BytePairMerger::add(TokenId left, TokenId right, TokenId joined) {
  assert(2 * merges_.size() < slots_.size());
  std::uint32_t& rank = slots_[slot_of(left, right)];
  if (rank != kNone) return false;
  rank = static_cast<std::uint32_t>(merges_.size());
  merges_.push_back({left, right, joined});
  return true;
}

void BytePairMerger::merge(std::span<const TokenId> tokens, Scratch& scratch, std::vector<TokenId>& out) const {
  if (tokens.empty()) return;
  auto& symbols = scratch.symbols;
  auto& candidates = scratch.candidates;
  symbols.clear();
  candidates.clear();
  const auto count = static_cast<std::uint32_t>(tokens.size());
  for (std::uint32_t i = 0; i < count; ++i) symbols.push_back({tokens[i], i - 1, i + 1 < count ? i + 1 : kNone});

  // A candidate is rank and position in one number, so that the smallest is the one to take. It is stale, and skipped,
  // where the symbols at its position are no longer the rank's pair.
  const auto candidate_at = [&](std::uint32_t position) -> std::uint64_t {
    const std::uint32_t next = symbols[position].next;
    if (next == kNone) return ~std::uint64_t{0};
    return static_cast<std::uint64_t>(rank_of(symbols[position].token, symbols[next].token)) << 32 | position;
  };
  const auto exists = [](std::uint64_t candidate) { return candidate >> 32 != kNone; };
  const auto push = [&](std::uint32_t position) {
    const std::uint64_t candidate = candidate_at(position);
    if (!exists(candidate)) return;
    candidates.push_back(candidate);
    std::ranges::push_heap(candidates, std::greater{});
  };

  for (std::uint32_t i = 0; i + 1 < count; ++i) {
    const std::uint64_t candidate = candidate_at(i);
    if (exists(candidate)) candidates.push_back(candidate);
  }
  std::ranges::make_heap(candidates, std::greater{});

  while (!candidates.empty()) {
    std::ranges::pop_heap(candidates, std::greater{});
    const Merge& merge = merges_[candidates.back() >> 32];
    const auto position = static_cast<std::uint32_t>(candidates.back());
    candidates.pop_back();
    auto& left = symbols[position];
    if (left.token != merge.left || left.next == kNone || symbols[left.next].token != merge.right) continue;
    auto& right = symbols[left.next];
    left.token = merge.joined;
    left.next = right.next;
    right.token = -1;  // no merge has it: candidates that start here are stale
    if (left.next != kNone) symbols[left.next].previous = position;
    push(position);
    if (left.previous != kNone) push(left.previous);
  }
  for (std::uint32_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace tiercel
