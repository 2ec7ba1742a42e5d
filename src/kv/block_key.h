// A content key as stores know it, and as a key of hash maps.
#pragma once

#include <cstddef>

#include "kv/content_key.h"
#include "tiercel/tier_store.h"

namespace tiercel {

inline BlockKey block_key(const ContentKey& key) { return {.low = key.low, .high = key.high}; }

// Keys are hashes already.
struct BlockKeyHash {
  std::size_t operator()(const BlockKey& key) const { return static_cast<std::size_t>(key.low); }
};

}  // namespace tiercel
