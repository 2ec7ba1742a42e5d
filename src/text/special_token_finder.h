// Finds the special tokens in a text: a tree over their bytes, walked from each position where one could start.
//
// Of several that start at a position the longest is taken. Time is proportional to the text times the longest special
// token at worst, and to the text where few positions start one.
//
// Thread-safety: immutable once all tokens are added.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tiercel/types.h"

namespace tiercel {

class SpecialTokenFinder {
 public:
  struct Found {
    std::size_t offset;
    std::size_t length;
    TokenId token;
  };

  // `text` must not be empty. False where another token has it already.
  bool add(std::string_view text, TokenId token, bool needs_trust);

  // The first one at or after `from`. `trusted` is as long as the text, or empty: nothing is trusted. A token that
  // needs trust is found only where trusted[i] != 0 for all its bytes.
  std::optional<Found> find(std::string_view text, std::string_view trusted, std::size_t from) const;

 private:
  struct Node {
    TokenId token = -1;  // that ends here
    bool needs_trust = false;
  };
  static std::uint64_t edge(std::uint32_t node, char byte) {
    return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
  }
  Found longest_at(std::string_view text, std::string_view trusted, std::size_t offset) const;

  std::vector<Node> nodes_{1};
  std::unordered_map<std::uint64_t, std::uint32_t> children_;
  std::array<bool, 256> starts_{};  // some token starts with this byte
};

}  // namespace tiercel
