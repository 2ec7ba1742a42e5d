#include "tier/disk_index.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace tiercel::disk {

void DiskIndex::load(const std::shared_ptr<Segment>& segment, const FooterEntry& entry) {
  highest_sequence_ = std::max(highest_sequence_, entry.sequence);
  if (entry.fingerprint != fingerprint_) return;
  switch (entry.kind) {
    case RecordKind::Block:
      if (entry.encryption_key == encryption_key_) insert(segment, entry);
      break;
    case RecordKind::ErasedKeys: break;  // load_erased()
    case RecordKind::ErasedTenant:
      erased_tenants_[entry.tenant] = std::max(erased_tenants_[entry.tenant], entry.sequence);
      break;
    case RecordKind::ErasedFingerprint: erased_all_ = std::max(erased_all_, entry.sequence); break;
  }
}

void DiskIndex::load_erased(std::span<const BlockKey> keys, std::uint64_t sequence) {
  for (const BlockKey& key : keys) erased_keys_[key] = std::max(erased_keys_[key], sequence);
}

void DiskIndex::settle() {
  const auto sequence_in = [](const auto& erasures, const auto& key) {
    const auto found = erasures.find(key);
    return found == erasures.end() ? 0 : found->second;
  };
  if (erased_all_ > 0 || !erased_tenants_.empty() || !erased_keys_.empty()) {
    std::erase_if(places_, [&](const auto& item) {
      const FooterEntry& entry = item.second.entry;
      return entry.sequence <
             std::max({erased_all_, sequence_in(erased_tenants_, entry.tenant), sequence_in(erased_keys_, item.first)});
    });
  }
  erased_all_ = 0;
  erased_tenants_.clear();
  erased_keys_.clear();
}

void DiskIndex::insert(const std::shared_ptr<Segment>& segment, const FooterEntry& entry) {
  highest_sequence_ = std::max(highest_sequence_, entry.sequence);
  places_.insert_or_assign(entry.key, Place{.segment = segment, .entry = entry});
}

const DiskIndex::Place* DiskIndex::at(const BlockKey& key) const {
  const auto found = places_.find(key);
  return found == places_.end() ? nullptr : &found->second;
}

bool DiskIndex::is_complete(const Place& place) const {
  for (const Place* block = &place; block->entry.position > 0;) {
    const Place* parent = at(block->entry.parent);
    const bool goes_on = parent != nullptr && parent->entry.sequence < block->entry.sequence &&
                         parent->entry.position + 1 == block->entry.position;
    if (!goes_on) return false;
    block = parent;
  }
  return true;
}

const DiskIndex::Place* DiskIndex::find(const BlockKey& key, const BlockKey& parent, std::size_t tokens) const {
  const Place* place = at(key);
  const bool is_it = place != nullptr && place->entry.parent == parent && place->entry.tokens == tokens;
  return is_it && is_complete(*place) ? place : nullptr;
}

void DiskIndex::remove(const BlockKey& key, std::uint64_t sequence) {
  const auto found = places_.find(key);
  if (found != places_.end() && found->second.entry.sequence == sequence) places_.erase(found);
}

std::vector<FooterEntry> DiskIndex::used_in(const Segment& segment, std::span<const FooterEntry> entries) const {
  std::vector<FooterEntry> used;
  for (const FooterEntry& entry : entries) {
    if (entry.kind != RecordKind::Block || entry.fingerprint != fingerprint_) continue;
    const Place* place = at(entry.key);
    if (place != nullptr && place->used && place->segment.get() == &segment && place->entry.page == entry.page) {
      used.push_back(entry);
    }
  }
  return used;
}

std::size_t DiskIndex::remove_segment(const Segment& segment) {
  return std::erase_if(places_, [&](const auto& item) { return item.second.segment.get() == &segment; });
}

std::size_t DiskIndex::use_leading(std::span<const BlockKey> keys) const {
  std::size_t known = 0;
  for (; known < keys.size(); ++known) {
    const Place* place = at(keys[known]);
    if (place == nullptr) break;
    const bool goes_on = known == 0 ? is_complete(*place)
                                    : place->entry.parent == keys[known - 1] &&
                                          place->entry.sequence > at(keys[known - 1])->entry.sequence;
    if (!goes_on) break;
    place->used = true;
  }
  return known;
}

std::vector<DiskIndex::Place> DiskIndex::children_of(const BlockKey& parent) const {
  std::vector<Place> children;
  for (const auto& [key, place] : places_) {
    if (place.entry.parent == parent) children.push_back(place);
  }
  return children;
}

std::vector<BlockKey> DiskIndex::with_descendants(std::vector<BlockKey> tops) const {
  if (tops.empty()) return tops;
  std::vector<std::pair<BlockKey, BlockKey>> by_parent;
  by_parent.reserve(places_.size());
  for (const auto& [key, place] : places_) by_parent.emplace_back(place.entry.parent, key);
  const auto order = [](const BlockKey& key) { return std::pair(key.low, key.high); };
  std::ranges::sort(by_parent, {}, [&](const auto& pair) { return order(pair.first); });
  std::unordered_set<BlockKey, KeyHash> found(tops.begin(), tops.end());
  for (std::size_t i = 0; i < tops.size(); ++i) {
    const auto children =
        std::ranges::equal_range(by_parent, order(tops[i]), {}, [&](const auto& pair) { return order(pair.first); });
    for (const auto& child : children) {
      if (found.insert(child.second).second) tops.push_back(child.second);
    }
  }
  return tops;
}

std::size_t DiskIndex::erase(std::span<const BlockKey> keys) {
  std::size_t gone = 0;
  for (const BlockKey& key : keys) gone += places_.erase(key);
  return gone;
}

std::size_t DiskIndex::erase_tenant(std::uint64_t tenant) {
  return std::erase_if(places_, [&](const auto& item) { return item.second.entry.tenant == tenant; });
}

std::size_t DiskIndex::erase_all() { return std::exchange(places_, {}).size(); }

}  // namespace tiercel::disk
