#include "engine/prompt_lookup.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace tiercel {
namespace {

std::uint64_t hash_of(std::span<const TokenId> tokens) {
  std::uint64_t hash = 0;
  for (const TokenId token : tokens) hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 32;
}

}  // namespace

PromptLookup::PromptLookup(std::size_t most_tokens) {
  for (auto& places : places_) places.resize(std::bit_ceil(most_tokens + 1));
}

void PromptLookup::extend(std::span<const TokenId> tokens) {
  for (; taken_in_ < tokens.size(); ++taken_in_) {
    const std::size_t end = taken_in_ + 1;
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
      if (end < kLengths[i]) continue;
      const std::uint64_t hash = hash_of(tokens.subspan(end - kLengths[i], kLengths[i]));
      std::uint32_t& place = places_[i][hash & (places_[i].size() - 1)];
      earlier_[i] = place;
      place = static_cast<std::uint32_t>(end);
    }
  }
}

PromptLookup::Match PromptLookup::find(std::span<const TokenId> tokens) const {
  assert(tokens.size() == taken_in_);
  for (std::size_t i = 0; i < kLengths.size(); ++i) {
    const std::size_t length = kLengths[i];
    if (earlier_[i] == 0) continue;
    if (std::ranges::equal(tokens.subspan(earlier_[i] - length, length), tokens.last(length))) {
      return {.length = length, .place = earlier_[i]};
    }
  }
  return {};
}

void PromptLookup::copy(std::span<const TokenId> tokens, const Match& match, std::span<TokenId> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t place = match.place + i;
    out[i] = place < tokens.size() ? tokens[place] : out[place - tokens.size()];
  }
}

}  // namespace tiercel
