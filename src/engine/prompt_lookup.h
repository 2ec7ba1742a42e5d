// Where a sequence's last tokens occurred in it before: what followed them then may follow now ("prompt lookup
// decoding", Saxena 2023). Answers that copy from their prompts, and text that repeats itself, are drafted so.
//
// For each length of n-gram a table from its hash to the place behind its latest occurrence. A place is looked up when
// its n-gram is taken in, before it is overwritten, and compared when it is used; so the tables need no lists and no
// deleting, and where two n-grams meet in one entry, the later one stays. Constant work for each token, memory
// allocated by the constructor only. Not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tiercel/types.h"

namespace tiercel {

class PromptLookup {
 public:
  static constexpr std::array<std::size_t, 3> kLengths = {4, 3, 2};  // of n-grams, the longest first

  // For a sequence of at most so many tokens.
  explicit PromptLookup(std::size_t most_tokens);

  // Takes in what was appended to `tokens`, the whole sequence, since the last call.
  void extend(std::span<const TokenId> tokens);

  struct Match {
    std::size_t length = 0;  // of the n-gram; 0: none
    std::size_t place = 0;   // behind its earlier occurrence
  };
  // The longest of the last n-grams that occurred before. `tokens` as extend() had them last.
  Match find(std::span<const TokenId> tokens) const;
  // The tokens behind the match, which goes on with what it just said where it reaches the end.
  static void copy(std::span<const TokenId> tokens, const Match& match, std::span<TokenId> out);

 private:
  std::array<std::vector<std::uint32_t>, kLengths.size()> places_;  // by hash; 0: none
  std::array<std::uint32_t, kLengths.size()> earlier_{};            // of the last n-grams, by length
  std::size_t taken_in_ = 0;
};

}  // namespace tiercel
