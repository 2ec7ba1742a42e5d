#include "tier/segment_log.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"

namespace tiercel::disk {
namespace {

constexpr std::array<std::byte, kPage> kZeros{};

std::size_t footer_bytes(std::size_t entries) {
  return padded(sizeof(FooterHeader) + entries * sizeof(FooterEntry) + sizeof(FooterTrailer));
}

// A footer vouches for its records, so they are made safe first.
Status write_footer(File& file, std::span<const FooterEntry> entries, std::uint64_t offset) {
  TIERCEL_RETURN_IF_ERROR(file.sync());
  const std::string footer = make_footer(entries, offset);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(footer));
  return file.write(offset, {&bytes, 1});
}

}  // namespace

void SegmentLog::adopt(const std::shared_ptr<Segment>& segment, const SegmentRecords& records) {
  if (!records.sealed) {
    // What follows the last good record is of no use, and must not be taken for records behind the footer.
    Status closed = segment->file->truncate(records.end);
    if (closed.ok()) closed = write_footer(*segment->file, records.entries, records.end);
    if (!closed.ok()) log().warn("a segment of the disk tier stays without its footer: {}", closed.message());
    if (const auto size = segment->file->size(); size.ok()) segment->bytes = *size;
  }
  // Its process may not have synced it.
  segment->unsynced = files_changed_ = true;
  segments_.push_back(segment);
  closed_bytes_ += segment->bytes;
  last_number_ = std::max(last_number_, segment->number);
}

bool SegmentLog::fits(std::size_t record_bytes) const {
  return open_ && end_ + record_bytes + footer_bytes(entries_.size() + 1) <= segment_bytes_;
}

bool SegmentLog::needs_room(std::size_t record_bytes) const {
  if (fits(record_bytes)) return false;
  // The one that is full gets its footer, and the next one may become as long as they get.
  const std::size_t open_bytes = open_ ? end_ + footer_bytes(entries_.size()) : 0;
  return closed_bytes_ + open_bytes + segment_bytes_ > capacity_bytes_;
}

Status SegmentLog::drop_oldest() {
  const std::shared_ptr<Segment> segment = segments_.front();
  const Status removed = files_.remove(segment_path(directory_, segment->number));
  if (!removed.ok() && removed.code() != StatusCode::NotFound) return removed;
  segments_.pop_front();
  closed_bytes_ -= segment->bytes;
  // A later segment may hold the erasure of what was in this one: it must not go before this one is gone for good.
  return files_.sync_directory(directory_);
}

Status SegmentLog::begin_segment() {
  const std::uint64_t number = last_number_ + 1;
  auto file = files_.open(segment_path(directory_, number), FileSystem::OpenMode::CreateNew);
  last_number_ = number;  // never tried twice
  if (!file.ok()) return file.status();
  files_changed_ = true;
  std::array<std::byte, kPage> page{};
  const SegmentHeader header = make_segment_header(number);
  std::memcpy(page.data(), &header, sizeof header);
  const std::span<const std::byte> bytes(page);
  if (Status failed = (*file)->write(0, {&bytes, 1}); !failed.ok()) {
    static_cast<void>(files_.remove(segment_path(directory_, number)));
    return failed;
  }
  open_ = std::make_shared<Segment>();
  open_->number = number;
  open_->file = *std::move(file);
  end_ = kPage;
  entries_.clear();
  return {};
}

Result<SegmentLog::Appended> SegmentLog::append(const RecordHeader& header, std::span<const std::byte> tokens,
                                                std::span<const std::byte> payload) {
  if (!fits(header.record_bytes())) {
    seal();
    TIERCEL_RETURN_IF_ERROR(begin_segment());
  }
  entries_.reserve(entries_.size() + 1);
  const std::span<std::byte> head = head_.take(header.head_bytes());
  std::memcpy(head.data(), &header, sizeof header);
  std::ranges::copy(tokens, head.begin() + sizeof header);
  std::fill(head.begin() + static_cast<std::ptrdiff_t>(sizeof header + tokens.size()), head.end(), std::byte{0});
  const std::array<std::span<const std::byte>, 3> buffers = {
      head, payload, std::span(kZeros).first(padded(payload.size()) - payload.size())};
  if (Status failed = open_->file->write(end_, buffers); !failed.ok()) {
    // A part of it may be there, or all of it. Nothing may follow what is not whole.
    has_unknown_records_ = true;
    if (!open_->file->truncate(end_).ok()) abandon_open_segment();
    return failed;
  }
  const FooterEntry entry = entry_of(header, end_);
  end_ += header.record_bytes();
  open_->bytes = end_;
  entries_.push_back(entry);
  return Appended{.segment = open_, .entry = entry};
}

void SegmentLog::abandon_open_segment() {
  // Found record by record when the directory is opened again.
  if (const auto size = open_->file->size(); size.ok()) open_->bytes = *size;
  closed_bytes_ += open_->bytes;
  open_->unsynced = true;
  segments_.push_back(std::exchange(open_, nullptr));
  end_ = 0;
}

void SegmentLog::seal() {
  if (!open_) return;
  if (const Status written = write_footer(*open_->file, entries_, end_); written.ok()) {
    end_ += footer_bytes(entries_.size());
  } else if (!open_->file->truncate(end_).ok()) {
    log().warn("a segment of the disk tier stays without its footer: {}", written.message());
  }
  open_->bytes = end_;
  abandon_open_segment();
}

Status SegmentLog::sync_segment(Segment& segment) {
  if (segment.may_be_lost) {
    return Status::unavailable(
        fmt::format("the system could not keep all of {}", segment_path(directory_, segment.number)));
  }
  Status synced = segment.file->sync();
  segment.may_be_lost = !synced.ok();
  return synced;
}

Status SegmentLog::sync() {
  if (open_) TIERCEL_RETURN_IF_ERROR(sync_segment(*open_));
  for (const auto& segment : segments_) {
    if (segment->unsynced) TIERCEL_RETURN_IF_ERROR(sync_segment(*segment));
    segment->unsynced = false;
  }
  if (files_changed_) TIERCEL_RETURN_IF_ERROR(files_.sync_directory(directory_));
  files_changed_ = false;
  return {};
}

}  // namespace tiercel::disk
