#include "engine/routed_prefixes.h"

#include <algorithm>

namespace tiercel {

void RoutedPrefixes::add(std::uint64_t ticket, std::size_t replica, std::span<const PrefixKey> keys) {
  keys = keys.first(std::min(keys.size(), most_keys_));
  if (keys.empty()) return;
  while (keys_ + keys.size() > most_keys_) remove(paths_.begin()->first);
  paths_.emplace_hint(paths_.end(), ticket, Path{.replica = replica, .keys = {keys.begin(), keys.end()}});
  for (const PrefixKey key : keys) ++blocks_[replica][key];
  keys_ += keys.size();
}

void RoutedPrefixes::remove(std::uint64_t ticket) {
  const auto found = paths_.find(ticket);
  if (found == paths_.end()) return;
  auto& blocks = blocks_[found->second.replica];
  for (const PrefixKey key : found->second.keys) {
    const auto block = blocks.find(key);
    if (--block->second == 0) blocks.erase(block);
  }
  keys_ -= found->second.keys.size();
  paths_.erase(found);
}

std::size_t RoutedPrefixes::leading(std::size_t replica, std::span<const PrefixKey> keys) const {
  const auto& blocks = blocks_[replica];
  if (blocks.empty()) return 0;
  std::size_t known = 0;
  while (known < keys.size() && blocks.contains(keys[known])) ++known;
  return known;
}

}  // namespace tiercel
