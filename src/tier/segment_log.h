// The files of a disk directory as one log: appended at its end, given back segment by segment at its beginning.
//
// Never takes more than its capacity: the caller makes room (oldest(), drop_oldest()) before needs_room() would be
// true. Not synchronised.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tier/aligned_buffer.h"
#include "tier/disk_index.h"
#include "tier/disk_segment.h"

namespace tiercel::disk {

class SegmentLog {
 public:
  SegmentLog(FileSystem& files, std::string directory, std::size_t capacity_bytes, std::size_t segment_bytes)
      : files_(files),
        directory_(std::move(directory)),
        capacity_bytes_(capacity_bytes),
        segment_bytes_(segment_bytes) {}

  // A segment that is there already, in order of numbers. One without a footer gets it, after its last good record.
  void adopt(const std::shared_ptr<Segment>& segment, const SegmentRecords& records);

  // Whether a record of that size needs a new segment for which there is no room.
  bool needs_room(std::size_t record_bytes) const;
  // The next one to give back; null where there is none but the open one.
  std::shared_ptr<Segment> oldest() const { return segments_.empty() ? nullptr : segments_.front(); }
  Status drop_oldest();

  struct Appended {
    std::shared_ptr<Segment> segment;
    FooterEntry entry;
  };
  // Appends a record: `header`, with sizes and hashes set, its tokens and its payload as stored. ResourceExhausted
  // where the disk is full; after any failure the log goes on behind its last whole record.
  Result<Appended> append(const RecordHeader& header, std::span<const std::byte> tokens,
                          std::span<const std::byte> payload);
  // What was appended survives the loss of power.
  Status sync();
  // Gives the open segment its footer; the next record begins another.
  void seal();

  // A write failed, so a record that nobody knows of may be in a file, and be found when the directory is opened again.
  bool has_unknown_records() const { return has_unknown_records_; }
  std::size_t segment_bytes() const { return segment_bytes_; }
  std::size_t file_bytes() const { return closed_bytes_ + end_; }

 private:
  // With the footer that it will get.
  bool fits(std::size_t record_bytes) const;
  Status begin_segment();
  void abandon_open_segment();
  Status sync_segment(Segment& segment);

  FileSystem& files_;
  const std::string directory_;
  const std::size_t capacity_bytes_;
  const std::size_t segment_bytes_;

  std::deque<std::shared_ptr<Segment>> segments_;  // closed ones, oldest first
  std::size_t closed_bytes_ = 0;
  std::uint64_t last_number_ = 0;
  std::shared_ptr<Segment> open_;  // null: none yet
  std::uint64_t end_ = 0;          // of the open one's last record
  std::vector<FooterEntry> entries_;
  bool files_changed_ = false;  // since sync()
  bool has_unknown_records_ = false;
  AlignedBuffer head_;
};

}  // namespace tiercel::disk
