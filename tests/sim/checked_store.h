// A store held to the plainest idea of one: a list of all that was ever written to it, and what of that was erased.
//
// A block that it gives must be one of the list, of just the fingerprint, key, parent, tenant, adapter and tokens asked
// for, its bytes and copyable as written, not erased, and behind blocks of the list that were written before it. A key
// that counts as here must be of such a block. What it counts must be what it answered.
//
// What the list does not say, and why:
//   that a block is there     a store may drop any block at any time. Simulator::check_flushed() demands the blocks
//                             that a flush() promised.
//   what an erasure of a prefix kills, where keys collide (docs/disk_format.md): another content may have taken the
//                             place of a block. Then what is behind that is not found, so of the blocks named only they
//                             themselves are killed here; and should the other content be lost with the process, the
//                             block is back in the next one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "kv/block_key.h"
#include "tests/tier/forwarding_store.h"

namespace tiercel::sim {

// Outlives the stores of one place, one after the other.
class StoreHistory {
 public:
  explicit StoreHistory(bool keys_collide) : keys_collide_(keys_collide) {}

  void write(const Fingerprint& fingerprint, const TierRecord& record);
  // `for_good`: else it may be back in the next process.
  void erase(const Fingerprint& fingerprint, const BlockKey& parent, std::span<const TokenId> tokens, bool for_good);
  void erase_tenant(const Fingerprint& fingerprint, std::uint64_t tenant, bool for_good);
  void erase_all(const Fingerprint& fingerprint, bool for_good);
  // Another process. `damaged`: erasures may have been lost, now or when a later process first misses them.
  void restart(bool damaged);

  bool may_count(const Fingerprint& fingerprint, const BlockKey& key, const BlockKey* parent) const;
  bool may_give(const Fingerprint& fingerprint, const TierRead& read) const;

 private:
  enum class Erased { No, ForNow, ForGood };
  struct Record {
    Fingerprint fingerprint;
    BlockKey key, parent;
    std::uint64_t tenant = 0;
    std::uint64_t adapter_id = 0;
    std::vector<TokenId> tokens;
    std::vector<std::byte> bytes;
    std::uint32_t position = 0;
    bool copyable = true;
    Erased erased = Erased::No;
    bool may_return = false;  // at any restart
  };

  // Calls visit(number) for the records of `key` that are not erased; ends with true where that says so.
  template <class Visit>
  bool any_of(const Fingerprint& fingerprint, const BlockKey& key, const Visit& visit) const;
  bool is_complete(std::size_t number) const;
  template <class Matches>
  std::vector<std::size_t> erase_where(const Fingerprint& fingerprint, bool for_good, const Matches& matches);

  bool keys_collide_;
  std::vector<Record> records_;  // in the order in which they were written
  std::unordered_map<BlockKey, std::vector<std::size_t>, BlockKeyHash> by_key_;
};

class CheckedStore final : public ForwardingStore {
 public:
  CheckedStore(const std::shared_ptr<TierStore>& inner, StoreHistory& history)
      : ForwardingStore(inner), history_(history) {}

  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override;
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status write(std::span<const TierRecord> records) override;
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override;
  Status erase_tenant(std::uint64_t tenant) override;
  Status erase_all() override;

  // The first answer that cannot be; empty: none.
  const std::string& violation() const { return violation_; }
  std::uint64_t given_blocks() const { return given_; }  // Ok
  std::uint64_t corrupt_blocks() const { return corrupt_; }
  // The bytes of the blocks given since this was last called.
  std::vector<std::vector<std::byte>> take_given();

 private:
  StoreHistory& history_;
  Fingerprint fingerprint_ = {};
  std::uint64_t given_ = 0, corrupt_ = 0, missed_ = 0;
  std::vector<std::vector<std::byte>> last_given_;
  mutable std::string violation_;
};

}  // namespace tiercel::sim
