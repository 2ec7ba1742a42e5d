#include "kv/tail_table.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace tiercel {

TailTable::TailTable(std::size_t capacity_blocks, std::uint32_t block_tokens)
    : block_tokens_(block_tokens),
      tails_(kWays * std::min(kMostSets, std::bit_ceil(capacity_blocks))),
      tokens_(tails_.size() * block_tokens_) {}

void TailTable::remember(BlockId block, std::span<const TokenId> tokens) {
  assert(!tokens.empty() && tokens.size() < block_tokens_);
  const std::size_t first = first_of(block);
  std::size_t chosen = first;
  for (std::size_t place = first; place < first + kWays; ++place) {
    const std::span<const TokenId> known = tokens_of(place);
    const bool goes_on = tails_[place].block == block && std::ranges::mismatch(known, tokens).in1 == known.end();
    if (goes_on) {  // the same sequence, or one that went further
      chosen = place;
      break;
    }
    if (tails_[place].remembered < tails_[chosen].remembered) chosen = place;
  }
  tails_[chosen] = {.block = block, .tokens = static_cast<std::uint32_t>(tokens.size()), .remembered = ++clock_};
  std::ranges::copy(tokens, tokens_.begin() + static_cast<std::ptrdiff_t>(chosen * block_tokens_));
}

void TailTable::forget(BlockId block) {
  const std::size_t first = first_of(block);
  for (std::size_t place = first; place < first + kWays; ++place) {
    if (tails_[place].block == block) tails_[place] = {};
  }
}

}  // namespace tiercel
