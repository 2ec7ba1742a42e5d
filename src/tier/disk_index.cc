#include "tier/disk_index.h"

#include <unordered_set>
#include <utility>

namespace tiercel::disk {

// ---- What is there when a directory is opened

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
    case RecordKind::ErasedFingerprint: load_erased_all(entry.sequence); break;
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
  for (const auto& [key, sequence] : erased_keys_) {
    const Slot slot = slot_of(key);
    if (slot != kNone && nodes_[slot].place.entry.sequence < sequence) remove(slot);
  }
  if (erased_all_ > 0 || !erased_tenants_.empty()) {
    const auto is_erased = [&](const Place& place) {
      return place.entry.sequence < std::max(erased_all_, sequence_in(erased_tenants_, place.entry.tenant));
    };
    for_each(is_erased, [&](Slot slot) { remove(slot); });
  }
  erased_all_ = 0;
  erased_tenants_.clear();
  erased_keys_.clear();
}

// ---- Single blocks

void DiskIndex::insert(const std::shared_ptr<Segment>& segment, const FooterEntry& entry) {
  highest_sequence_ = std::max(highest_sequence_, entry.sequence);
  const Slot slot = take_slot();  // whatever throws comes before any change
  if (const Slot old = slot_of(entry.key); old != kNone) remove(old);
  nodes_[slot].place = {.segment = segment, .entry = entry};
  link(slot);
}

void DiskIndex::insert_lost(const FooterEntry& entry) {
  if (slot_of(entry.key) != kNone) return;  // an erasure names it in any case
  const Slot slot = take_slot();
  nodes_[slot].place = {.segment = {}, .entry = entry, .lost = true};
  link(slot);
}

const DiskIndex::Place* DiskIndex::at(const BlockKey& key) const {
  const Slot slot = slot_of(key);
  return slot == kNone || nodes_[slot].place.lost ? nullptr : &nodes_[slot].place;
}

bool DiskIndex::follows(const Place& block, const Place& before) {
  return block.entry.parent == before.entry.key && block.entry.position == before.entry.position + 1 &&
         block.entry.sequence > before.entry.sequence;
}

bool DiskIndex::is_complete(const Place& place) const {
  for (const Place* block = &place; block->entry.position > 0;) {
    const Place* before = at(block->entry.parent);
    if (before == nullptr || !follows(*block, *before)) return false;
    block = before;
  }
  return true;
}

const DiskIndex::Place* DiskIndex::find(const Asked& asked, const Place* before) const {
  const Place* place = at(asked.key);
  if (place == nullptr || place->entry.parent != asked.parent || place->entry.tenant != asked.tenant ||
      place->entry.adapter_id != asked.adapter_id || place->entry.tokens != asked.tokens) {
    return nullptr;
  }
  return (before != nullptr && follows(*place, *before)) || is_complete(*place) ? place : nullptr;
}

std::optional<std::uint64_t> DiskIndex::sequence_of_lost(const BlockKey& key, const BlockKey& parent) const {
  const Slot slot = slot_of(key);
  if (slot == kNone) return std::nullopt;
  const Place& place = nodes_[slot].place;
  const bool is_it = place.lost && !place.may_be_erased && place.entry.parent == parent;
  return is_it ? std::optional(place.entry.sequence) : std::nullopt;
}

void DiskIndex::lose(const BlockKey& key, std::uint64_t sequence) {
  const Slot slot = slot_of(key);
  if (slot != kNone && nodes_[slot].place.entry.sequence == sequence) lose(slot);
}

std::size_t DiskIndex::lose_from(const Segment& segment, std::uint64_t offset) {
  return for_each([&](const Place& place) { return place.segment.get() == &segment && place.entry.offset() >= offset; },
                  [&](Slot slot) { lose(slot); });
}

std::size_t DiskIndex::use_leading(std::span<const BlockKey> keys) const {
  std::size_t known = 0;
  for (; known < keys.size(); ++known) {
    const Place* place = at(keys[known]);
    const bool is_there =
        place != nullptr &&
        (known == 0 || place->entry.position == 0 ? is_complete(*place) : follows(*place, *at(keys[known - 1])));
    if (!is_there) break;
    place->used = true;
  }
  return known;
}

// ---- Many at once

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

std::vector<BlockKey> DiskIndex::keys_in(const Segment& segment, std::span<const FooterEntry> entries) const {
  std::vector<BlockKey> keys;
  for (const FooterEntry& entry : entries) {
    if (entry.kind != RecordKind::Block || entry.fingerprint != fingerprint_) continue;
    const Slot slot = slot_of(entry.key);
    if (slot == kNone) continue;
    const Place& place = nodes_[slot].place;
    if (place.segment.get() == &segment && place.entry.page == entry.page) keys.push_back(entry.key);
  }
  return keys;
}

std::vector<DiskIndex::Place> DiskIndex::children_of(const BlockKey& parent) const {
  std::vector<Place> children;
  if (nodes_.empty()) return children;
  for (Slot slot = first_of_parent_[bucket_of(parent)]; slot != kNone; slot = nodes_[slot].next_of_parent) {
    if (nodes_[slot].place.entry.parent == parent) children.push_back(nodes_[slot].place);
  }
  return children;
}

std::vector<BlockKey> DiskIndex::with_descendants(std::vector<BlockKey> tops) const {
  if (nodes_.empty()) return tops;
  std::unordered_set<BlockKey, BlockKeyHash> found(tops.begin(), tops.end());
  for (std::size_t i = 0; i < tops.size(); ++i) {
    const BlockKey parent = tops[i];
    for (Slot slot = first_of_parent_[bucket_of(parent)]; slot != kNone; slot = nodes_[slot].next_of_parent) {
      const FooterEntry& entry = nodes_[slot].place.entry;
      if (entry.parent == parent && found.insert(entry.key).second) tops.push_back(entry.key);
    }
  }
  return tops;
}

template <class Matches, class Visit>
std::size_t DiskIndex::for_each(const Matches& matches, const Visit& visit) {
  const std::size_t before = findable_;
  for (Slot slot = 0; slot < nodes_.size(); ++slot) {
    const Place& place = nodes_[slot].place;
    if (place.entry.kind == RecordKind::Block && matches(place)) visit(slot);
  }
  return before - findable_;
}

std::size_t DiskIndex::lose(std::span<const BlockKey> keys) {
  const std::size_t before = findable_;
  for (const BlockKey& key : keys) {
    if (const Slot slot = slot_of(key); slot != kNone) lose_for_erasure(slot);
  }
  return before - findable_;
}

std::size_t DiskIndex::lose_tenant(std::uint64_t tenant) {
  return for_each([&](const Place& place) { return place.entry.tenant == tenant; },
                  [&](Slot slot) { lose_for_erasure(slot); });
}

std::size_t DiskIndex::lose_all() {
  return for_each([](const Place&) { return true; }, [&](Slot slot) { lose_for_erasure(slot); });
}

void DiskIndex::remove_lost_of_tenant(std::uint64_t tenant) {
  for_each([&](const Place& place) { return place.lost && place.entry.tenant == tenant; },
           [&](Slot slot) { remove(slot); });
}

void DiskIndex::remove_all_lost() {
  for_each([](const Place& place) { return place.lost; }, [&](Slot slot) { remove(slot); });
}

std::size_t DiskIndex::remove(std::span<const BlockKey> keys) {
  const std::size_t before = findable_;
  for (const BlockKey& key : keys) {
    if (const Slot slot = slot_of(key); slot != kNone) remove(slot);
  }
  return before - findable_;
}

std::size_t DiskIndex::remove_segment(const Segment& segment) {
  return for_each([&](const Place& place) { return place.segment.get() == &segment; },
                  [&](Slot slot) { remove(slot); });
}

// ---- The tables

DiskIndex::Slot DiskIndex::slot_of(const BlockKey& key) const {
  if (nodes_.empty()) return kNone;
  Slot slot = first_of_key_[bucket_of(key)];
  while (slot != kNone && nodes_[slot].place.entry.key != key) slot = nodes_[slot].next_of_key;
  return slot;
}

DiskIndex::Slot DiskIndex::take_slot() {
  if (first_free_ == kNone) {
    if (linked_ >= first_of_key_.size()) grow();
    nodes_.emplace_back();
    return static_cast<Slot>(nodes_.size() - 1);
  }
  return std::exchange(first_free_, nodes_[first_free_].next_of_key);
}

void DiskIndex::grow() {
  const std::size_t buckets = std::max<std::size_t>(64, 2 * first_of_key_.size());
  std::vector<Slot> of_key(buckets, kNone), of_parent(buckets, kNone);
  first_of_key_ = std::move(of_key);
  first_of_parent_ = std::move(of_parent);
  linked_ = findable_ = 0;
  for (Slot slot = 0; slot < nodes_.size(); ++slot) {
    if (nodes_[slot].place.entry.kind == RecordKind::Block) link(slot);
  }
}

void DiskIndex::link(Slot slot) {
  Node& node = nodes_[slot];
  Slot& of_key = first_of_key_[bucket_of(node.place.entry.key)];
  node.next_of_key = std::exchange(of_key, slot);
  Slot& of_parent = first_of_parent_[bucket_of(node.place.entry.parent)];
  node.next_of_parent = std::exchange(of_parent, slot);
  node.previous_of_parent = kNone;
  if (node.next_of_parent != kNone) nodes_[node.next_of_parent].previous_of_parent = slot;
  ++linked_;
  findable_ += !node.place.lost;
}

void DiskIndex::lose(Slot slot) { findable_ -= !std::exchange(nodes_[slot].place.lost, true); }

void DiskIndex::lose_for_erasure(Slot slot) {
  lose(slot);
  nodes_[slot].place.may_be_erased = true;
}

void DiskIndex::remove(Slot slot) {
  Node& node = nodes_[slot];
  Slot* next = &first_of_key_[bucket_of(node.place.entry.key)];
  while (*next != slot) next = &nodes_[*next].next_of_key;
  *next = node.next_of_key;
  // Many blocks may follow the same one, so this chain has ways in both directions.
  if (node.next_of_parent != kNone) nodes_[node.next_of_parent].previous_of_parent = node.previous_of_parent;
  (node.previous_of_parent != kNone ? nodes_[node.previous_of_parent].next_of_parent
                                    : first_of_parent_[bucket_of(node.place.entry.parent)]) = node.next_of_parent;
  --linked_;
  findable_ -= !node.place.lost;
  node.place = {};
  node.next_of_key = std::exchange(first_free_, slot);
}

}  // namespace tiercel::disk
