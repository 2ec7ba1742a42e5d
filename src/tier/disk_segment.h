// One file of the disk tier: its records, as a list. Reading one never trusts it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tier/disk_format.h"
#include "tier/file_system.h"

namespace tiercel::disk {

struct SegmentRecords {
  std::vector<FooterEntry> entries;  // in order
  std::uint64_t end = kPage;         // of the last one
  bool sealed = false;               // they come from a footer
  bool header_is_good = true;        // else its page is damaged, and the records are told by themselves
};

// The records of a segment: from its footer, else by going from header to header, and from page to page where one is
// damaged: what follows counts all the same, for it may be an erasure. With `verify` these records are read as a whole,
// and what a loss of power tore is left out. (A footer is written when its records are safe.) Corruption where it is no
// segment of that number and of this version; other statuses as FileSystem's. May throw std::bad_alloc.
Result<SegmentRecords> read_segment(FileSystem& files, const File& file, std::uint64_t number, bool verify);

// Header and tokens of one record, verified by their hashes. `bytes` has entry.head_bytes(). Corruption where they are
// damaged or another record's.
Result<RecordHeader> read_head(FileSystem& files, const File& file, const FooterEntry& entry,
                               std::span<std::byte> bytes);

// The keys of an ErasedKeys record; Corruption where they are not what was written.
Result<std::vector<BlockKey>> read_erased_keys(FileSystem& files, const File& file, const FooterEntry& entry);

// One record, header and payload as stored, verified by their hashes.
struct StoredRecord {
  RecordHeader header;
  std::span<std::byte> head;     // header and tokens, padded
  std::span<std::byte> payload;  // padded
};
// `bytes` has entry.record_bytes(). Corruption where it is damaged or another record.
Result<StoredRecord> read_record(FileSystem& files, const File& file, const FooterEntry& entry,
                                 std::span<std::byte> bytes);

// Whether the record is the entry's, and header and tokens are whole.
bool is_head_of(std::span<const std::byte> head, const FooterEntry& entry);

// Numbers of the segments in a directory, ascending.
Result<std::vector<std::uint64_t>> list_segments(FileSystem& files, const std::string& directory);
std::string segment_path(const std::string& directory, std::uint64_t number);
std::string lock_path(const std::string& directory);

}  // namespace tiercel::disk
