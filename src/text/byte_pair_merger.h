// Byte-pair merging: of all neighbours that have a merge, the pair of lowest rank is joined, the leftmost first, until
// none is left (Sennrich et al. 2016).
//
// Merges are between ids, so that no string is built while merging; a heap of candidates makes it O(n log n) for a
// piece of n bytes, whatever the piece is.
//
// Thread-safety: immutable once all merges are added; the scratch space is the caller's, one for each thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tiercel/types.h"

namespace tiercel {

class BytePairMerger {
 public:
  class Scratch {
    friend class BytePairMerger;
    struct Symbol {
      TokenId token;
      std::uint32_t previous;
      std::uint32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> candidates;
  };

  // Room for `count` merges, fewer than 2^31.
  explicit BytePairMerger(std::size_t count);

  // The next rank's merge. False where the pair has one already.
  bool add(TokenId left, TokenId right, TokenId joined);

  // Appends to `out` what `tokens`, fewer than 2^31, merge into.
  void merge(std::span<const TokenId> tokens, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Merge {
    TokenId left;
    TokenId right;
    TokenId joined;
  };
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  std::size_t slot_of(TokenId left, TokenId right) const;
  std::uint32_t rank_of(TokenId left, TokenId right) const { return slots_[slot_of(left, right)]; }

  std::vector<Merge> merges_;         // by rank
  std::vector<std::uint32_t> slots_;  // open addressing: ranks, or kNone; a power of two, at most half full
};

}  // namespace tiercel
