#include "kv/shared_tiers.h"

#include <mutex>
#include <optional>
#include <utility>

#include "tiercel/disk_tier.h"

namespace tiercel {

Result<std::vector<std::shared_ptr<TierStore>>> make_tier_stores(const KvCacheOptions& options) {
  std::vector<std::shared_ptr<TierStore>> stores;
  if (options.memory_tier_bytes > 0) {
    auto memory = memory_tier({.capacity_bytes = options.memory_tier_bytes, .codec = options.memory_tier_codec});
    if (!memory.ok()) return memory.status();
    stores.push_back(*std::move(memory));
  }
  if (!options.disk_dir.empty()) {
    auto disk = disk_tier(
        {.directory = options.disk_dir, .capacity_bytes = options.disk_capacity_bytes, .codec = options.disk_codec});
    if (!disk.ok()) return disk.status();
    stores.push_back(*std::move(disk));
  }
  stores.insert(stores.end(), options.tiers.begin(), options.tiers.end());
  return stores;
}

class SharedTiers::Shared {
 public:
  explicit Shared(std::shared_ptr<TierStore> store_) : store(std::move(store_)) {}

  Status open(const KvLayout& layout, const Fingerprint& fingerprint) {
    const std::lock_guard lock(mutex_);
    if (!opened_) opened_ = store->open(layout, fingerprint);
    return *opened_;
  }
  bool is_readable() const { return holders.load(std::memory_order_acquire) == 0; }

  const std::shared_ptr<TierStore> store;
  std::atomic<std::size_t> holders = 0;  // caches with erasures to come, and Holds

 private:
  std::mutex mutex_;
  std::optional<Status> opened_;
};

class SharedTiers::Handle final : public TierStore {
 public:
  explicit Handle(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  ~Handle() override { Handle::on_erasures_pending(false); }

  std::string_view name() const override { return store().name(); }
  bool is_durable() const override { return store().is_durable(); }
  TierMedium medium() const override { return store().medium(); }
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override {
    return shared_->open(layout, fingerprint);
  }
  std::size_t leading(std::span<const BlockKey> keys) const override {
    return shared_->is_readable() ? store().leading(keys) : 0;
  }
  void read(std::span<TierRead> reads) override {
    if (shared_->is_readable()) return store().read(reads);
    for (TierRead& read : reads) read.status = Status(StatusCode::NotFound, {});
  }
  Status write(std::span<const TierRecord> records) override { return store().write(records); }
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override {
    return store().erase(parent, tokens);
  }
  Status erase_tenant(std::uint64_t tenant) override { return store().erase_tenant(tenant); }
  Status erase_all() override { return store().erase_all(); }
  void on_erasures_pending(bool pending) override {
    if (pending_.exchange(pending) == pending) return;
    if (pending) {
      shared_->holders.fetch_add(1, std::memory_order_acq_rel);
    } else {
      shared_->holders.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
  Status flush() override { return store().flush(); }
  TierStats stats() const override { return store().stats(); }

 private:
  TierStore& store() const { return *shared_->store; }

  const std::shared_ptr<Shared> shared_;
  std::atomic<bool> pending_ = false;
};

SharedTiers::SharedTiers(std::vector<std::shared_ptr<TierStore>> stores) {
  for (auto& store : stores) shared_.push_back(std::make_shared<Shared>(std::move(store)));
}

void SharedTiers::open(const KvLayout& layout, const Fingerprint& fingerprint) const {
  for (const auto& shared : shared_) {
    if (shared->store != nullptr) static_cast<void>(shared->open(layout, fingerprint));
  }
}

std::vector<std::shared_ptr<TierStore>> SharedTiers::handles() const {
  std::vector<std::shared_ptr<TierStore>> handles;
  for (const auto& shared : shared_) {
    handles.push_back(shared->store == nullptr ? nullptr : std::make_shared<Handle>(shared));
  }
  return handles;
}

SharedTiers::Hold::Hold(const SharedTiers& tiers) : tiers_(tiers) {
  for (const auto& shared : tiers_.shared_) shared->holders.fetch_add(1, std::memory_order_acq_rel);
}

SharedTiers::Hold::~Hold() {
  for (const auto& shared : tiers_.shared_) shared->holders.fetch_sub(1, std::memory_order_acq_rel);
}

}  // namespace tiercel
