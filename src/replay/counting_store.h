// A tier that remembers which blocks it has, and no bytes: for replaying traces.
//
// As memory_tier() it gives up the least recently used block first, and of a path used as a whole the end first.
#pragma once

#include <cstddef>
#include <list>
#include <unordered_map>
#include <unordered_set>

#include "kv/block_key.h"
#include "tiercel/tier_store.h"

namespace tiercel {

// Not synchronised: the replay drives its cache by hand.
class CountingStore final : public TierStore {
 public:
  explicit CountingStore(std::size_t capacity_blocks) : capacity_blocks_(capacity_blocks) {}

  std::string_view name() const override { return "counting"; }
  bool is_durable() const override { return false; }
  Status open(const KvLayout&, const Fingerprint&) override { return {}; }
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status write(std::span<const TierRecord> records) override;
  // A trace forgets nothing.
  Status erase(const BlockKey&, std::span<const TokenId>) override { return {}; }
  Status erase_tenant(std::uint64_t) override { return {}; }
  Status erase_all() override { return {}; }
  Status flush() override { return {}; }
  TierStats stats() const override { return counts_; }

 private:
  using Keys = std::list<BlockKey>;

  const std::size_t capacity_blocks_;
  mutable Keys keys_;  // most recently used first
  std::unordered_map<BlockKey, Keys::iterator, BlockKeyHash> places_;
  TierStats counts_;
};

}  // namespace tiercel
