// Which tokens followed a block and filled none of their own: the ends of sequences, for Lease::continuation(). The
// prefix index has every full block of an answer, but not its last tokens, and a short answer is nothing else.
//
// Of the last 4,096 sequences at most, the last eight of one block among them; a fixed amount of memory. The owner
// forgets a block's tails when the block leaves the index. Not synchronised: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tiercel/types.h"

namespace tiercel {

class TailTable {
 public:
  TailTable(std::size_t capacity_blocks, std::uint32_t block_tokens);

  // `tokens`: at least one, fewer than a block's.
  void remember(BlockId block, std::span<const TokenId> tokens);
  void forget(BlockId block);
  // The latest tail of `block` of which fits(tokens) is true; empty: none.
  template <class Fits>
  std::span<const TokenId> find(BlockId block, const Fits& fits) const;

  std::size_t metadata_bytes() const { return tails_.capacity() * sizeof(Tail) + tokens_.capacity() * sizeof(TokenId); }

 private:
  static constexpr std::size_t kMostSets = 512;
  static constexpr std::size_t kWays = 8;

  struct Tail {
    BlockId block = kNoBlock;
    std::uint32_t tokens = 0;
    std::uint64_t remembered = 0;  // the later, the more
  };

  std::size_t first_of(BlockId block) const { return (block & (tails_.size() / kWays - 1)) * kWays; }
  std::span<const TokenId> tokens_of(std::size_t place) const {
    return std::span(tokens_).subspan(place * block_tokens_, tails_[place].tokens);
  }

  const std::size_t block_tokens_;
  std::vector<Tail> tails_;      // kWays of each set, a power of two of them
  std::vector<TokenId> tokens_;  // block_tokens_ of each tail
  std::uint64_t clock_ = 0;
};

template <class Fits>
std::span<const TokenId> TailTable::find(BlockId block, const Fits& fits) const {
  std::span<const TokenId> found;
  std::uint64_t latest = 0;
  for (std::size_t place = first_of(block), end = place + kWays; place < end; ++place) {
    if (tails_[place].block != block || tails_[place].remembered <= latest || !fits(tokens_of(place))) continue;
    found = tokens_of(place);
    latest = tails_[place].remembered;
  }
  return found;
}

}  // namespace tiercel
