#include "tests/sim/checked_store.h"

#include <algorithm>
#include <utility>

namespace tiercel::sim {
namespace {

bool same(const Fingerprint& a, const Fingerprint& b) { return a.words == b.words; }

}  // namespace

// ---- What was written

void StoreHistory::write(const Fingerprint& fingerprint, const TierRecord& record) {
  by_key_[record.key].push_back(records_.size());
  records_.push_back({.fingerprint = fingerprint,
                      .key = record.key,
                      .parent = record.parent,
                      .tenant = record.tenant,
                      .adapter_id = record.adapter_id,
                      .tokens = {record.tokens.begin(), record.tokens.end()},
                      .bytes = {record.bytes.begin(), record.bytes.end()},
                      .position = record.position,
                      .copyable = record.copyable});
}

template <class Matches>
std::vector<std::size_t> StoreHistory::erase_where(const Fingerprint& fingerprint, bool for_good,
                                                   const Matches& matches) {
  std::vector<std::size_t> gone;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    Record& record = records_[i];
    if (!same(record.fingerprint, fingerprint) || record.erased == Erased::ForGood || !matches(record)) continue;
    record.erased = for_good ? Erased::ForGood : Erased::ForNow;
    gone.push_back(i);
  }
  return gone;
}

void StoreHistory::erase(const Fingerprint& fingerprint, const BlockKey& parent, std::span<const TokenId> tokens,
                         bool for_good) {
  std::vector<std::size_t> gone = erase_where(fingerprint, for_good, [&](const Record& record) {
    return record.parent == parent && record.tokens.size() >= tokens.size() &&
           std::ranges::equal(std::span(record.tokens).first(tokens.size()), tokens);
  });
  if (keys_collide_) {
    for (const std::size_t number : gone) {
      Record& record = records_[number];
      record.may_return = record.may_return || by_key_.at(record.key).back() != number;
    }
    return;
  }
  for (std::size_t i = 0; i < gone.size(); ++i) {
    const BlockKey key = records_[gone[i]].key;
    const auto behind = erase_where(fingerprint, for_good, [&](const Record& record) {
      return record.parent == key && (for_good || record.erased == Erased::No);
    });
    gone.insert(gone.end(), behind.begin(), behind.end());
  }
}

void StoreHistory::erase_tenant(const Fingerprint& fingerprint, std::uint64_t tenant, bool for_good) {
  erase_where(fingerprint, for_good, [&](const Record& record) { return record.tenant == tenant; });
}

void StoreHistory::erase_all(const Fingerprint& fingerprint, bool for_good) {
  erase_where(fingerprint, for_good, [](const Record&) { return true; });
}

void StoreHistory::restart(bool damaged) {
  for (Record& record : records_) {
    record.may_return = record.may_return || (damaged && record.erased == Erased::ForGood);
    if (record.may_return || record.erased == Erased::ForNow) record.erased = Erased::No;
  }
}

// ---- What may be answered

template <class Visit>
bool StoreHistory::any_of(const Fingerprint& fingerprint, const BlockKey& key, const Visit& visit) const {
  const auto known = by_key_.find(key);
  if (known == by_key_.end()) return false;
  return std::ranges::any_of(known->second, [&](std::size_t number) {
    const Record& record = records_[number];
    return record.erased == Erased::No && same(record.fingerprint, fingerprint) && visit(number);
  });
}

bool StoreHistory::is_complete(std::size_t number) const {
  const Record& record = records_[number];
  return record.position == 0 || any_of(record.fingerprint, record.parent, [&](std::size_t before) {
           return before < number && (keys_collide_ || records_[before].position + 1 == record.position) &&
                  is_complete(before);
         });
}

bool StoreHistory::may_count(const Fingerprint& fingerprint, const BlockKey& key, const BlockKey* parent) const {
  return any_of(fingerprint, key, [&](std::size_t number) {
    return (parent == nullptr || records_[number].parent == *parent || records_[number].position == 0) &&
           is_complete(number);
  });
}

bool StoreHistory::may_give(const Fingerprint& fingerprint, const TierRead& read) const {
  return any_of(fingerprint, read.key, [&](std::size_t number) {
    const Record& record = records_[number];
    return record.parent == read.parent && record.tenant == read.tenant && record.adapter_id == read.adapter_id &&
           record.copyable == read.copyable && std::ranges::equal(record.tokens, read.tokens) &&
           std::ranges::equal(record.bytes, read.bytes) && is_complete(number);
  });
}

// ---- The store

Status CheckedStore::open(const KvLayout& layout, const Fingerprint& fingerprint) {
  fingerprint_ = fingerprint;
  return ForwardingStore::open(layout, fingerprint);
}

std::size_t CheckedStore::leading(std::span<const BlockKey> keys) const {
  const std::size_t known = ForwardingStore::leading(keys);
  if (known > keys.size()) violation_ = "a tier has more leading keys than it was asked for";
  for (std::size_t i = 0; i < std::min(known, keys.size()); ++i) {
    if (history_.may_count(fingerprint_, keys[i], i == 0 ? nullptr : &keys[i - 1])) continue;
    violation_ = "a tier counts a block as here that was not written, or is erased, or not all before it were";
  }
  return known;
}

void CheckedStore::read(std::span<TierRead> reads) {
  ForwardingStore::read(reads);
  for (const TierRead& read : reads) {
    switch (read.status.code()) {
      case StatusCode::NotFound: ++missed_; continue;
      case StatusCode::Corruption: ++corrupt_; continue;
      case StatusCode::Ok: break;
      default: continue;
    }
    ++given_;
    last_given_.emplace_back(read.bytes.begin(), read.bytes.end());
    if (!history_.may_give(fingerprint_, read))
      violation_ = "a tier gives a block that was not written so, or is erased";
  }
  const TierStats stats = this->stats();
  if (stats.read_blocks != given_ || stats.missed_blocks != missed_ || stats.corrupt_blocks != corrupt_) {
    violation_ = "a tier does not count what it answered";
  }
}

Status CheckedStore::write(std::span<const TierRecord> records) {
  // What fails, or is cut short, may be there all the same.
  for (const TierRecord& record : records) history_.write(fingerprint_, record);
  return ForwardingStore::write(records);
}

Status CheckedStore::erase(const BlockKey& parent, std::span<const TokenId> tokens) {
  Status status = ForwardingStore::erase(parent, tokens);
  history_.erase(fingerprint_, parent, tokens, status.ok());
  return status;
}

Status CheckedStore::erase_tenant(std::uint64_t tenant) {
  Status status = ForwardingStore::erase_tenant(tenant);
  history_.erase_tenant(fingerprint_, tenant, status.ok());
  return status;
}

Status CheckedStore::erase_all() {
  Status status = ForwardingStore::erase_all();
  history_.erase_all(fingerprint_, status.ok());
  return status;
}

std::vector<std::vector<std::byte>> CheckedStore::take_given() { return std::exchange(last_given_, {}); }

}  // namespace tiercel::sim
