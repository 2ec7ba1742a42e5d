// Stores that stand before another one and change a thing on the way; tests and benchmarks derive theirs from the
// first.
#pragma once

#include <chrono>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "tiercel/tier_store.h"

namespace tiercel {

// Hands everything on. Keeps what it has from one cache to the next: the inner store is opened once.
class ForwardingStore : public TierStore {
 public:
  explicit ForwardingStore(std::shared_ptr<TierStore> inner) : inner_(std::move(inner)) {}

  std::string_view name() const override { return inner_->name(); }
  bool is_durable() const override { return inner_->is_durable(); }
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override {
    return std::exchange(is_open_, true) ? Status() : inner_->open(layout, fingerprint);
  }
  std::size_t leading(std::span<const BlockKey> keys) const override { return inner_->leading(keys); }
  void read(std::span<TierRead> reads) override { inner_->read(reads); }
  Status write(std::span<const TierRecord> records) override { return inner_->write(records); }
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override {
    return inner_->erase(parent, tokens);
  }
  Status erase_tenant(std::uint64_t tenant) override { return inner_->erase_tenant(tenant); }
  Status erase_all() override { return inner_->erase_all(); }
  Status flush() override { return inner_->flush(); }
  TierStats stats() const override { return inner_->stats(); }

 private:
  const std::shared_ptr<TierStore> inner_;
  bool is_open_ = false;
};

// Host memory that is read at the speed of a slower place, and counts as one that lasts.
class SlowStore final : public ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;

  std::string_view name() const override { return "slow"; }
  bool is_durable() const override { return true; }
  void read(std::span<TierRead> reads) override {
    const auto start = std::chrono::steady_clock::now();
    ForwardingStore::read(reads);
    double bytes = 0;
    for (const TierRead& read : reads) bytes += static_cast<double>(read.bytes.size());
    if (bytes_per_s > 0) std::this_thread::sleep_until(start + std::chrono::duration<double>(bytes / bytes_per_s));
  }

  double bytes_per_s = 0;  // 0: as fast as it is; not changed while somebody reads
};

}  // namespace tiercel
