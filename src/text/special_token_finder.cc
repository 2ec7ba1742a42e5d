#include "text/special_token_finder.h"

#include <cassert>

namespace tiercel {

bool SpecialTokenFinder::add(std::string_view text, TokenId token, bool needs_trust) {
  assert(!text.empty());
  starts_[static_cast<unsigned char>(text[0])] = true;
  std::uint32_t node = 0;
  for (const char byte : text) {
    const auto [child, is_new] = children_.try_emplace(edge(node, byte), static_cast<std::uint32_t>(nodes_.size()));
    if (is_new) nodes_.emplace_back();
    node = child->second;
  }
  if (nodes_[node].token >= 0) return false;
  nodes_[node] = {token, needs_trust};
  return true;
}

SpecialTokenFinder::Found SpecialTokenFinder::longest_at(std::string_view text, std::string_view trusted,
                                                         std::size_t offset) const {
  Found found{offset, 0, -1};
  bool all_trusted = !trusted.empty();
  std::uint32_t node = 0;
  for (std::size_t i = offset; i < text.size(); ++i) {
    const auto child = children_.find(edge(node, text[i]));
    if (child == children_.end()) break;
    node = child->second;
    all_trusted = all_trusted && trusted[i] != 0;
    if (nodes_[node].token >= 0 && (all_trusted || !nodes_[node].needs_trust)) {
      found = {offset, i + 1 - offset, nodes_[node].token};
    }
  }
  return found;
}

std::optional<SpecialTokenFinder::Found> SpecialTokenFinder::find(std::string_view text, std::string_view trusted,
                                                                  std::size_t from) const {
  assert(trusted.empty() || trusted.size() == text.size());
  for (std::size_t i = from; i < text.size(); ++i) {
    if (!starts_[static_cast<unsigned char>(text[i])]) continue;
    const Found found = longest_at(text, trusted, i);
    if (found.length > 0) return found;
  }
  return std::nullopt;
}

}  // namespace tiercel
