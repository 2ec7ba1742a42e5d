// A cache above a store that goes wrong on demand. The background's work is turned by hand, and so are the clocks.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "tests/kv/distant_memory.h"
#include "tests/kv/kv_cache_fixture.h"
#include "tests/tier/forwarding_store.h"
#include "tier/memory_store.h"

namespace tiercel {

// A store that goes wrong on demand.
class FaultyStore final : public ForwardingStore {
 public:
  explicit FaultyStore(std::size_t capacity_bytes)
      : FaultyStore(
            std::make_shared<MemoryStore>(MemoryTierOptions{.capacity_bytes = capacity_bytes, .codec = Codec::Raw})) {}
  std::string_view name() const override { return "faulty"; }
  bool is_durable() const override { return durable; }
  std::size_t leading(std::span<const BlockKey> keys) const override {
    return claims_everything ? keys.size() : inner.leading(keys);
  }
  void read(std::span<TierRead> reads) override {
    before_read(reads.size());
    for (TierRead& read : reads) {
      std::byte* stored = inner.stored_bytes(read.key);
      if (stored != nullptr && one_in(damage_one_in)) stored[random() % read.bytes.size()] ^= std::byte{64};
      if (one_in(fail_read_one_in)) {
        std::ranges::fill(read.bytes, std::byte{0xee});
        read.status = Status::unavailable("injected");
      } else {
        inner.read({&read, 1});
      }
    }
  }
  Status stage(std::span<const BlockId> blocks) override { return on_stage(blocks); }
  Status write(std::span<const TierRecord> records) override {
    before_write();
    if (one_in(fail_write_one_in)) return Status::unavailable("injected");
    for (TierRecord record : records) {
      std::vector<TokenId> tokens(record.tokens.begin(), record.tokens.end());
      if (one_in(wrong_tokens_one_in)) ++tokens.back();
      record.tokens = tokens;
      if (Status failed = inner.write({&record, 1}); !failed.ok()) return failed;
    }
    return {};
  }
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override {
    return one_in(fail_erase_one_in) ? Status::unavailable("injected") : inner.erase(parent, tokens);
  }
  Status flush() override {
    ++flushes;
    return {};
  }

  bool one_in(unsigned n) { return n != 0 && random() % n == 0; }

  MemoryStore& inner;
  std::mt19937_64 random{7};
  bool claims_everything = false, durable = false;
  int flushes = 0;
  std::function<void(std::size_t)> before_read = [](std::size_t) {};  // may advance the clock, or hang
  std::function<void()> before_write = [] {};
  std::function<Status(std::span<const BlockId>)> on_stage = [](auto) { return Status(); };
  unsigned fail_erase_one_in = 0;
  unsigned damage_one_in = 0, fail_read_one_in = 0, fail_write_one_in = 0, wrong_tokens_one_in = 0;

 private:
  explicit FaultyStore(const std::shared_ptr<MemoryStore>& memory) : ForwardingStore(memory), inner(*memory) {}
};

class TierFixture : public KvCacheFixture {
 protected:
  double now_s = 1000;  // the tiers' clock
  std::shared_ptr<FaultyStore> store = std::make_shared<FaultyStore>(tier_bytes(1000));

  // Of a tier that holds so many blocks.
  static std::size_t tier_bytes(std::size_t blocks) {
    return blocks * MemoryStore::taken_bytes(kLayout.block_bytes(), kLayout);
  }
  KvCache open_tiered(std::size_t blocks, KvCacheOptions options = {},
                      std::shared_ptr<const BlockMemory> memory = nullptr) {
    options.capacity_bytes = bytes(blocks);
    options.eviction = lru();
    if (options.tiers.empty()) options.tiers = {store};
    const KvCacheSeams seams{
        .now_ms = [this] { return now_ms; }, .tier_now_s = [this] { return now_s; }, .background_thread = false};
    return KvCacheState::open(options, kLayout, {}, {}, seams, std::move(memory)).value();
  }
  static TierManager& tiers(KvCache& cache) { return *KvCacheState::of(cache).tiers(); }
  static void finish(KvCache& cache) {
    while (tiers(cache).run_one()) {
      ASSERT_EQ(KvCacheState::of(cache).audit(), "");
    }
  }
  // Computes `tokens`, stores what the tier takes.
  static void run_and_store(KvCache& cache, const Tokens& tokens, const AdmitOptions& options = {}) {
    run(cache, tokens, options);
    finish(cache);
  }
  // Fills the cache with what nobody asks for again.
  static void push_out(KvCache& cache) {
    const std::size_t tokens = cache.stats().capacity_blocks * kLayout.block_tokens;
    Lease all = admit(cache, {}, {.max_tokens = tokens});
    ASSERT_TRUE(all.grow(tokens).ok());
  }
};

}  // namespace tiercel
