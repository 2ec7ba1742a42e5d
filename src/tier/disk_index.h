// Which blocks the disk tier has, and where: those of one fingerprint that one encryption key opens. No I/O.
//
// One vector of places with two chained hash tables over it, by key and by parent: a block behind another, and all that
// is behind it, is found without a look at the rest. About 150 bytes for a block.
//
// Not synchronised: the owner locks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/block_key.h"
#include "tier/disk_format.h"

namespace tiercel::disk {

// A file of records. Who has one may read it until it is gone.
struct Segment {
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;   // of the file
  bool told_damage = false;  // logged once for each
};

class DiskIndex {
 public:
  struct Place {
    std::shared_ptr<Segment> segment;
    FooterEntry entry = {};
    mutable bool used = false;  // since it was written
    // Its bytes are not what was written, or may not be when the directory is opened again. Not found any more, but
    // remembered until it is written again: it may come back, so an erasure must name it.
    bool lost = false;
    // And an erasure of it may be in a file.
    bool may_be_erased = false;
  };

  DiskIndex(const Fingerprint& fingerprint, std::uint32_t encryption_key)
      : fingerprint_(fingerprint), encryption_key_(encryption_key) {}

  // While a directory is read, in order of segments: what its records say. Erasures take effect in settle().
  void load(const std::shared_ptr<Segment>& segment, const FooterEntry& entry);
  void load_erased(std::span<const BlockKey> keys, std::uint64_t sequence);
  void load_erased_all(std::uint64_t sequence) { erased_all_ = std::max(erased_all_, sequence); }
  void settle();

  // Replaces what is there under that key.
  void insert(const std::shared_ptr<Segment>& segment, const FooterEntry& entry);
  // Notes a block that may be in a file, though it could not be written.
  void insert_lost(const FooterEntry& entry);
  // Null: not here, or not with all blocks before it, or another block of that key. `before`: what was found for
  // `parent`, where that is known.
  struct Asked {
    explicit Asked(const auto& block)  // a TierRead or TierRecord
        : key(block.key),
          parent(block.parent),
          tenant(block.tenant),
          adapter_id(block.adapter_id),
          tokens(block.tokens.size()) {}
    BlockKey key;
    BlockKey parent;
    std::uint64_t tenant;
    std::uint64_t adapter_id;
    std::size_t tokens;
  };
  const Place* find(const Asked& asked, const Place* before = nullptr) const;
  // The sequence to write a block with that was lost: its own, so that what is behind it still follows it. Nothing
  // where it is not known, or where an erasure of that sequence may be in a file.
  std::optional<std::uint64_t> sequence_of_lost(const BlockKey& key, const BlockKey& parent) const;
  // A block is lost, if it is still the one of that record.
  void lose(const BlockKey& key, std::uint64_t sequence);
  // All blocks of a segment from that offset on are; returns how many of them could be found.
  std::size_t lose_from(const Segment& segment, std::uint64_t offset);
  // Marks the leading keys that are here as used; returns how many these are.
  std::size_t use_leading(std::span<const BlockKey> keys) const;

  // Of the segment's records, in order, the blocks that are still here and were used since they were written.
  std::vector<FooterEntry> used_in(const Segment& segment, std::span<const FooterEntry> entries) const;
  // Of the segment's records, the keys of those that are still the ones here.
  std::vector<BlockKey> keys_in(const Segment& segment, std::span<const FooterEntry> entries) const;

  std::vector<Place> children_of(const BlockKey& parent) const;
  // `tops` and all that is behind them.
  std::vector<BlockKey> with_descendants(std::vector<BlockKey> tops) const;
  // Blocks are lost, and about to be erased; returns how many of them could be found. Until the erasure is in a file:
  // then they are removed.
  std::size_t lose(std::span<const BlockKey> keys);
  std::size_t lose_tenant(std::uint64_t tenant);
  std::size_t lose_all();
  void remove_lost_of_tenant(std::uint64_t tenant);
  void remove_all_lost();
  // Return how many went that could be found.
  std::size_t remove(std::span<const BlockKey> keys);
  std::size_t remove_segment(const Segment& segment);

  std::size_t size() const { return findable_; }  // without what is lost
  std::uint64_t highest_sequence() const { return highest_sequence_; }

 private:
  using Slot = std::uint32_t;
  static constexpr Slot kNone = 0xffffffffu;
  struct Node {
    Place place = {};
    Slot next_of_key = kNone;  // in its bucket; of a free node: the next free one
    Slot next_of_parent = kNone;
    Slot previous_of_parent = kNone;
  };

  // Null: no record of that key, or lost.
  const Place* at(const BlockKey& key) const;
  // Whether the block goes on from that one, which is older.
  static bool follows(const Place& block, const Place& before);
  // Whether all blocks before it are here, each older than the one behind it.
  bool is_complete(const Place& place) const;

  std::size_t bucket_of(const BlockKey& key) const { return BlockKeyHash()(key) & (first_of_key_.size() - 1); }
  Slot slot_of(const BlockKey& key) const;
  Slot take_slot();
  void grow();
  void link(Slot slot);
  void remove(Slot slot);
  void lose(Slot slot);
  void lose_for_erasure(Slot slot);
  // Calls visit(slot) for each block for which matches(place) holds; returns by how many fewer can be found then.
  template <class Matches, class Visit>
  std::size_t for_each(const Matches& matches, const Visit& visit);

  Fingerprint fingerprint_;
  std::uint32_t encryption_key_;
  std::vector<Node> nodes_;
  std::vector<Slot> first_of_key_, first_of_parent_;  // of a bucket; as many, a power of two
  Slot first_free_ = kNone;
  std::size_t linked_ = 0;
  std::size_t findable_ = 0;
  std::uint64_t highest_sequence_ = 0;

  // Between load() and settle(): the latest erasures.
  std::unordered_map<BlockKey, std::uint64_t, BlockKeyHash> erased_keys_;
  std::unordered_map<std::uint64_t, std::uint64_t> erased_tenants_;
  std::uint64_t erased_all_ = 0;
};

}  // namespace tiercel::disk
