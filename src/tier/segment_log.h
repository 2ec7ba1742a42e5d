// The files of a disk directory as one log: appended at its end, given back segment by segment at its beginning.
//
// Never takes more than its capacity: the caller makes room (oldest(), drop_oldest()) while needs_room(). One segment's
// room stays free for what is moved out of the oldest before that goes. Not synchronised.
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
#include "tier/segment_files.h"

namespace tiercel::disk {

class SegmentLog {
 public:
  SegmentLog(SegmentFiles& files, std::size_t capacity_bytes, std::size_t segment_bytes)
      : files_(files), capacity_bytes_(capacity_bytes), segment_bytes_(segment_bytes) {}

  // The segments that are there already, in order of numbers, before anything is appended. One without a footer gets
  // it, after its last good record; the last one, where it has room, is gone on with.
  void adopt(const std::shared_ptr<Segment>& segment, const SegmentRecords& records, bool is_last);
  // One that cannot be used: left as it is, given back in its turn.
  void adopt_unusable(const std::shared_ptr<Segment>& segment);

  // Whether a record of that size needs a new segment for which there is no room.
  bool needs_room(std::size_t record_bytes) const;
  // Whether it may come to take too much: the open one may become as long as they get.
  bool is_over_capacity() const { return closed_bytes_ + (open_.segment ? segment_bytes_ : 0) > capacity_bytes_; }
  // The next one to give back; null where there is none but the open one.
  std::shared_ptr<Segment> oldest() const { return segments_.empty() ? nullptr : segments_.front(); }
  Status drop_oldest();

  struct Appended {
    std::shared_ptr<Segment> segment;
    FooterEntry entry;
  };
  // Appends a record: `header`, with sizes and hashes set, its tokens and its payload as stored. ResourceExhausted
  // where the disk is full, or the capacity; after any failure the log goes on behind its last whole record.
  Result<Appended> append(const RecordHeader& header, std::span<const std::byte> tokens,
                          std::span<const std::byte> payload);

  // What a disk may not have, though it was written: a sync of it failed. That a later one succeeds says nothing, since
  // a system gives up what it could not write.
  struct Lost {
    std::shared_ptr<Segment> segment;
    std::uint64_t from = 0;
  };
  // What was appended survives the loss of power, but for what is added to `lost`. That is cut off, so that no later
  // process takes it for safe; not in a segment of an earlier process, which may have synced it.
  Status sync(std::vector<Lost>& lost);
  // Whether so many closed segments wait for it, each with an open file, that it is due.
  bool is_sync_due() const { return unsynced_.size() >= kMostUnsynced; }
  // Gives the open segment its footer; the next record begins another.
  void seal();

  std::size_t segment_bytes() const { return segment_bytes_; }
  std::size_t file_bytes() const { return closed_bytes_ + end_; }

 private:
  static constexpr std::size_t kMostUnsynced = 8;

  // A segment being written, or not yet synced.
  struct Writing {
    std::shared_ptr<Segment> segment;
    std::unique_ptr<File> file;
    std::uint64_t synced_bytes = 0;
    bool sync_failed = false;  // since sync()
    bool is_ours = true;       // all of it was written by this process
  };

  // With the footer that it will get.
  bool fits(std::size_t record_bytes) const;
  Status begin_segment();
  // A footer vouches for its records, so they are made safe first.
  static Status write_footer(Writing& writing, std::span<const FooterEntry> entries, std::uint64_t offset);
  void close_open_segment();

  SegmentFiles& files_;
  const std::size_t capacity_bytes_;
  const std::size_t segment_bytes_;

  std::deque<std::shared_ptr<Segment>> segments_;  // closed ones, oldest first
  std::size_t closed_bytes_ = 0;
  std::uint64_t last_number_ = 0;
  Writing open_;           // empty: none yet
  std::uint64_t end_ = 0;  // of the open one's last record
  std::vector<FooterEntry> entries_;
  std::deque<Writing> unsynced_;  // closed ones
  bool files_changed_ = true;     // since the directory was synced; a process that died may have left it so
  AlignedBuffer head_;
};

}  // namespace tiercel::disk
