// What replicas were given to compute and have not yet: the prefixes of requests between routing and the end of their
// prompt. With what is in the hot arenas this is all that a replica will have when its turn comes.
//
// Memory is bounded: where there are more keys, those of the earliest requests are forgotten, which costs a worse
// guess. Not synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

namespace tiercel {

// Of a block of tokens with all before it, and of their scope. Different ones with one key cost a worse guess.
using PrefixKey = std::uint64_t;

class RoutedPrefixes {
 public:
  static constexpr std::size_t kMostKeys = std::size_t{1} << 16;  // 2 million tokens; some megabytes

  RoutedPrefixes(std::size_t replicas, std::size_t most_keys) : most_keys_(most_keys), blocks_(replicas) {}

  // Tickets ascend.
  void add(std::uint64_t ticket, std::size_t replica, std::span<const PrefixKey> keys);
  void remove(std::uint64_t ticket);
  // How many of the leading keys some request there has.
  std::size_t leading(std::size_t replica, std::span<const PrefixKey> keys) const;

  std::size_t keys() const { return keys_; }

 private:
  struct Path {
    std::size_t replica = 0;
    std::vector<PrefixKey> keys;
  };
  const std::size_t most_keys_;
  std::size_t keys_ = 0;                                            // of all paths
  std::map<std::uint64_t, Path> paths_;                             // by ticket
  std::vector<std::unordered_map<PrefixKey, std::size_t>> blocks_;  // of each replica: how many paths have it
};

}  // namespace tiercel
