// Which blocks the disk tier has, and where: those of one fingerprint that one encryption key opens. No I/O.
//
// Not synchronised: the owner locks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "tier/disk_format.h"
#include "tier/file_system.h"

namespace tiercel::disk {

// A file, open for as long as someone reads it.
struct Segment {
  std::uint64_t number = 0;
  std::shared_ptr<File> file;
  std::uint64_t bytes = 0;   // of the file
  bool unsynced = false;     // since it was closed
  bool may_be_lost = false;  // a sync failed: what it was to save may be gone, whatever later ones say
  bool told_damage = false;  // logged once for each
};

struct KeyHash {
  std::size_t operator()(const BlockKey& key) const { return static_cast<std::size_t>(key.low); }
};

class DiskIndex {
 public:
  struct Place {
    std::shared_ptr<Segment> segment;
    FooterEntry entry;
    mutable bool used = false;  // since it was written
  };

  DiskIndex(const Fingerprint& fingerprint, std::uint32_t encryption_key)
      : fingerprint_(fingerprint), encryption_key_(encryption_key) {}

  // While a directory is read, in order of segments: what its records say. Erasures take effect in settle().
  void reserve(std::size_t blocks) { places_.reserve(blocks); }
  void load(const std::shared_ptr<Segment>& segment, const FooterEntry& entry);
  void load_erased(std::span<const BlockKey> keys, std::uint64_t sequence);
  void load_erased_all(std::uint64_t sequence) { erased_all_ = std::max(erased_all_, sequence); }
  void settle();

  // Replaces what is there under that key.
  void insert(const std::shared_ptr<Segment>& segment, const FooterEntry& entry);
  // Null: not here, or not with all blocks before it, or another block of that key.
  const Place* find(const BlockKey& key, const BlockKey& parent, std::size_t tokens) const;
  // Removes a block if it is still the one of that record.
  void remove(const BlockKey& key, std::uint64_t sequence);
  // Of the segment's records, the blocks that are still here and were used since they were written.
  std::vector<FooterEntry> used_in(const Segment& segment, std::span<const FooterEntry> entries) const;
  // Removes what is in that segment; returns how many blocks.
  std::size_t remove_segment(const Segment& segment);

  // Marks the leading keys that are here as used; returns how many these are.
  std::size_t use_leading(std::span<const BlockKey> keys) const;

  std::vector<Place> children_of(const BlockKey& parent) const;
  // `tops` and all that is behind them.
  std::vector<BlockKey> with_descendants(std::vector<BlockKey> tops) const;
  // Returns how many went.
  std::size_t erase(std::span<const BlockKey> keys);
  std::size_t erase_tenant(std::uint64_t tenant);
  std::size_t erase_all();

  std::size_t size() const { return places_.size(); }
  std::uint64_t highest_sequence() const { return highest_sequence_; }

 private:
  // Null: no record of that key.
  const Place* at(const BlockKey& key) const;
  // Whether all blocks before it are here, each older than the one behind it.
  bool is_complete(const Place& place) const;

  Fingerprint fingerprint_;
  std::uint32_t encryption_key_;
  std::unordered_map<BlockKey, Place, KeyHash> places_;
  std::uint64_t highest_sequence_ = 0;

  // Between load() and settle(): the latest erasures.
  std::unordered_map<BlockKey, std::uint64_t, KeyHash> erased_keys_;
  std::unordered_map<std::uint64_t, std::uint64_t> erased_tenants_;
  std::uint64_t erased_all_ = 0;
};

}  // namespace tiercel::disk
