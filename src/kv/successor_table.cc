#include "kv/successor_table.h"

#include <algorithm>
#include <utility>

namespace tiercel {

const Document* SuccessorTable::observe(std::uint64_t tenant, Document document) {
  const BlockKey key = document.key;
  if (!knows(key)) {
    if (document.tokens.size() > kMostDocumentTokens) return nullptr;
    entries_.push_front({.document = std::move(document)});
    try {
      by_key_.emplace(key, entries_.begin());
    } catch (...) {
      entries_.pop_front();
      throw;
    }
    if (entries_.size() > kMostDocuments) {
      by_key_.erase(entries_.back().document.key);
      entries_.pop_back();
    }
  }
  return observe(tenant, key);
}

const Document* SuccessorTable::observe(std::uint64_t tenant, const BlockKey& document) {
  const auto known = by_key_.find(document);
  if (known == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, known->second);
  if (last_.size() >= kMostTenants && !last_.contains(tenant)) last_.clear();
  const auto [last, first_time] = last_.try_emplace(tenant, document);
  if (!first_time && last->second != document) {
    const BlockKey before = std::exchange(last->second, document);
    if (const auto entry = by_key_.find(before); entry != by_key_.end()) add_successor(*entry->second, document);
  }
  const Entry& entry = *known->second;
  const Successor& best = *std::ranges::max_element(entry.successors, {}, &Successor::times);
  if (best.times < 2 || 2 * best.times < entry.followed) return nullptr;
  const auto next = by_key_.find(best.key);
  return next == by_key_.end() ? nullptr : &next->second->document;
}

void SuccessorTable::add_successor(Entry& entry, const BlockKey& next) {
  ++entry.followed;
  auto known = std::ranges::find_if(entry.successors, [&](const Successor& s) { return s.times > 0 && s.key == next; });
  if (known == entry.successors.end()) {
    known = std::ranges::min_element(entry.successors, {}, &Successor::times);
    *known = {.key = next};
  }
  ++known->times;
}

void SuccessorTable::clear() {
  by_key_.clear();
  last_.clear();
  entries_.clear();
}

}  // namespace tiercel
