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

}  // namespace

// ---- What is there already

void SegmentLog::adopt(const std::shared_ptr<Segment>& segment, const SegmentRecords& records, bool is_last) {
  const bool has_room = records.end <= segment_bytes_ / 2;
  const bool goes_on = is_last && has_room && records.header_is_good;
  if (records.sealed && !goes_on) return adopt_unusable(segment);
  auto file = files_.system().open(segment_path(files_.directory(), segment->number), FileSystem::OpenMode::ReadWrite);
  if (!file.ok()) {
    log().warn("a segment of the disk tier stays without its footer: {}", file.status().message());
    return adopt_unusable(segment);
  }
  Writing writing{.segment = segment, .file = *std::move(file), .synced_bytes = kPage, .is_ours = false};
  // What follows the last good record is of no use, and must not be taken for records behind a footer.
  Status closed = writing.file->truncate(records.end);
  if (closed.ok() && goes_on) {
    last_number_ = segment->number;
    open_ = std::move(writing);
    end_ = segment->bytes = records.end;
    entries_ = records.entries;
    return;
  }
  if (closed.ok()) closed = write_footer(writing, records.entries, records.end);
  if (!closed.ok()) log().warn("a segment of the disk tier stays without its footer: {}", closed.message());
  if (const auto size = writing.file->size(); size.ok()) segment->bytes = *size;
  unsynced_.push_back(std::move(writing));
  adopt_unusable(segment);
}

void SegmentLog::adopt_unusable(const std::shared_ptr<Segment>& segment) {
  segments_.push_back(segment);
  closed_bytes_ += segment->bytes;
  last_number_ = segment->number;
}

// ---- Room

bool SegmentLog::fits(std::size_t record_bytes) const {
  return open_.segment && end_ + record_bytes + footer_bytes(entries_.size() + 1) <= segment_bytes_;
}

bool SegmentLog::needs_room(std::size_t record_bytes) const {
  if (fits(record_bytes)) return false;
  // The one that is full gets its footer; the next one, and one to move things into, may become as long as they get.
  const std::size_t open_bytes = open_.segment ? end_ + footer_bytes(entries_.size()) : 0;
  return closed_bytes_ + open_bytes + 2 * segment_bytes_ > capacity_bytes_;
}

Status SegmentLog::drop_oldest() {
  const std::shared_ptr<Segment> segment = segments_.front();
  const Status removed = files_.system().remove(segment_path(files_.directory(), segment->number));
  if (!removed.ok() && removed.code() != StatusCode::NotFound) return removed;
  files_.close(segment->number);
  std::erase_if(unsynced_, [&](const Writing& writing) { return writing.segment == segment; });
  segments_.pop_front();
  closed_bytes_ -= segment->bytes;
  // A later segment may hold the erasure of what was in this one: it must not go before this one is gone for good.
  return files_.system().sync_directory(files_.directory());
}

// ---- Appending

Status SegmentLog::begin_segment() {
  if (closed_bytes_ + segment_bytes_ > capacity_bytes_) {
    return Status::resource_exhausted("the disk tier has reached its capacity_bytes");
  }
  const std::uint64_t number = last_number_ + 1;
  const std::string path = segment_path(files_.directory(), number);
  auto file = files_.system().open(path, FileSystem::OpenMode::CreateNew);
  last_number_ = number;  // never tried twice
  if (!file.ok()) return file.status();
  files_changed_ = true;
  std::array<std::byte, kPage> page{};
  const SegmentHeader header = make_segment_header(number);
  std::memcpy(page.data(), &header, sizeof header);
  const std::span<const std::byte> bytes(page);
  if (Status failed = (*file)->write(0, {&bytes, 1}); !failed.ok()) {
    static_cast<void>(files_.system().remove(path));
    return failed;
  }
  open_ = {.segment = std::make_shared<Segment>(), .file = *std::move(file), .synced_bytes = 0};
  open_.segment->number = number;
  open_.segment->bytes = end_ = kPage;
  entries_.clear();
  return {};
}

Result<SegmentLog::Appended> SegmentLog::append(const RecordHeader& header, std::span<const std::byte> tokens,
                                                std::span<const std::byte> payload) {
  if (!fits(header.record_bytes())) {
    seal();
    TIERCEL_RETURN_IF_ERROR(begin_segment());
  }
  const std::span<std::byte> head = head_.take(header.head_bytes());
  entries_.emplace_back();  // so that nothing throws once it is written
  std::memcpy(head.data(), &header, sizeof header);
  std::ranges::copy(tokens, head.begin() + sizeof header);
  std::fill(head.begin() + static_cast<std::ptrdiff_t>(sizeof header + tokens.size()), head.end(), std::byte{0});
  const std::array<std::span<const std::byte>, 3> buffers = {
      head, payload, std::span(kZeros).first(padded(payload.size()) - payload.size())};
  if (Status failed = open_.file->write(end_, buffers); !failed.ok()) {
    entries_.pop_back();
    // A part of it may be there. Nothing may follow what is not whole.
    if (!open_.file->truncate(end_).ok()) close_open_segment();
    return failed;
  }
  entries_.back() = entry_of(header, end_);
  end_ += header.record_bytes();
  open_.segment->bytes = end_;
  return Appended{.segment = open_.segment, .entry = entries_.back()};
}

Status SegmentLog::write_footer(Writing& writing, std::span<const FooterEntry> entries, std::uint64_t offset) {
  const Status synced = writing.file->sync();
  writing.sync_failed = !synced.ok();
  TIERCEL_RETURN_IF_ERROR(synced);
  writing.synced_bytes = offset;
  const std::string footer = make_footer(entries, offset);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(footer));
  return writing.file->write(offset, {&bytes, 1});
}

// Without a footer: it is found record by record when the directory is opened again.
void SegmentLog::close_open_segment() {
  if (const auto size = open_.file->size(); size.ok()) open_.segment->bytes = *size;
  closed_bytes_ += open_.segment->bytes;
  segments_.push_back(open_.segment);
  unsynced_.push_back(std::exchange(open_, {}));
  end_ = 0;
}

void SegmentLog::seal() {
  if (!open_.segment) return;
  if (entries_.empty()) {
    // Nothing is worth a file.
    if (files_.system().remove(segment_path(files_.directory(), open_.segment->number)).ok()) {
      files_changed_ = true;
      open_ = {};
      end_ = 0;
      return;
    }
  }
  const Status written = write_footer(open_, entries_, end_);
  if (!written.ok()) {
    log().warn("a segment of the disk tier stays without its footer: {}", written.message());
    static_cast<void>(open_.file->truncate(end_));
  }
  close_open_segment();
}

Status SegmentLog::sync(std::vector<Lost>& lost) {
  Status first;
  const auto sync_one = [&](Writing& writing) {
    Status synced = writing.file->sync();
    if (writing.sync_failed) synced = Status::unavailable("the system could not keep all of a segment");
    if (synced.ok()) {
      writing.synced_bytes = writing.segment->bytes;
      return;
    }
    lost.push_back({.segment = writing.segment, .from = writing.synced_bytes});
    if (writing.is_ours)
      static_cast<void>(writing.file->truncate(std::max<std::uint64_t>(writing.synced_bytes, kPage)));
    if (first.ok()) first = std::move(synced);
  };
  for (; !unsynced_.empty(); unsynced_.pop_front()) {
    Writing& closed = unsynced_.front();
    sync_one(closed);
    if (first.ok()) continue;
    closed_bytes_ -= closed.segment->bytes;
    if (const auto size = closed.file->size(); size.ok()) closed.segment->bytes = *size;
    closed_bytes_ += closed.segment->bytes;
  }
  if (open_.segment && open_.synced_bytes < end_) {
    sync_one(open_);
    if (!first.ok() && open_.synced_bytes < end_) {
      close_open_segment();  // nothing may follow what may not be there
      unsynced_.pop_back();
    }
  }
  if (first.ok() && files_changed_) {
    TIERCEL_RETURN_IF_ERROR(files_.system().sync_directory(files_.directory()));
    files_changed_ = false;
  }
  return first;
}

}  // namespace tiercel::disk
