#include "tier/disk_segment.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "tier/aligned_buffer.h"

namespace tiercel::disk {
namespace {

Status read_bytes(FileSystem& files, const File& file, std::uint64_t offset, std::span<std::byte> bytes) {
  FileRead read{.file = &file, .offset = offset, .bytes = bytes};
  files.read({&read, 1});
  return std::move(read.status);
}

RecordHeader header_in(std::span<const std::byte> head) {
  RecordHeader header;
  std::memcpy(&header, head.data(), sizeof header);
  return header;
}

}  // namespace

Result<SegmentRecords> read_segment(FileSystem& files, const File& file, std::uint64_t number, bool verify) {
  auto size = file.size();
  if (!size.ok()) return size.status();
  AlignedBuffer buffer;
  const auto page = buffer.take(kPage);
  if (*size < kPage) return Status(StatusCode::Corruption, "the file is shorter than a page");
  TIERCEL_RETURN_IF_ERROR(read_bytes(files, file, 0, page));
  SegmentHeader segment;
  std::memcpy(&segment, page.data(), sizeof segment);
  SegmentRecords records;
  records.header_is_good = is_good(segment, number);
  if (!records.header_is_good && is_whole(segment)) {
    return Status(StatusCode::Corruption, "it is a segment of another number or version");
  }

  if (*size >= 2 * kPage && *size % kPage == 0) {
    TIERCEL_RETURN_IF_ERROR(read_bytes(files, file, *size - kPage, page));
    FooterTrailer trailer;
    std::memcpy(&trailer, page.data() + kPage - sizeof trailer, sizeof trailer);
    if (const auto place = find_footer(trailer, *size)) {
      AlignedBuffer footer_buffer;
      const auto bytes = footer_buffer.take(place->bytes);
      TIERCEL_RETURN_IF_ERROR(read_bytes(files, file, place->offset, bytes));
      if (const auto entries = read_footer(*place, bytes)) {
        records.entries.assign(entries->begin(), entries->end());
        records.end = place->offset;
        records.sealed = true;
        return records;
      }
    }
  }
  AlignedBuffer record_buffer;
  for (std::uint64_t offset = kPage; offset + kPage <= *size;) {
    if (const Status status = read_bytes(files, file, offset, page); !status.ok()) {
      if (status.code() == StatusCode::NotFound) break;  // cut off meanwhile
      return status;
    }
    const RecordHeader header = header_in(page);
    if (!is_good(header) || header.record_bytes() > *size - offset) {
      offset += kPage;
      continue;
    }
    const FooterEntry entry = entry_of(header, offset);
    offset += header.record_bytes();
    if (verify) {
      const auto record = read_record(files, file, entry, record_buffer.take(entry.record_bytes()));
      if (record.status().code() == StatusCode::Corruption) continue;
      if (!record.ok()) return record.status();
    }
    records.entries.push_back(entry);
    records.end = offset;
  }
  if (!records.header_is_good && records.entries.empty()) return Status(StatusCode::Corruption, "it is no segment");
  return records;
}

bool is_head_of(std::span<const std::byte> head, const FooterEntry& entry) {
  const RecordHeader header = header_in(head);
  if (!is_good(header)) return false;
  const FooterEntry own = entry_of(header, entry.offset());
  return std::memcmp(&own, &entry, sizeof own) == 0 &&
         hash_of(head.subspan(sizeof header, std::size_t{header.tokens} * sizeof(TokenId))) == header.token_hash;
}

Result<RecordHeader> read_head(FileSystem& files, const File& file, const FooterEntry& entry,
                               std::span<std::byte> bytes) {
  Status status = read_bytes(files, file, entry.offset(), bytes);
  if (status.code() == StatusCode::NotFound || (status.ok() && !is_head_of(bytes, entry))) {
    return Status(StatusCode::Corruption, "the record is damaged");
  }
  if (!status.ok()) return status;
  return header_in(bytes);
}

Result<StoredRecord> read_record(FileSystem& files, const File& file, const FooterEntry& entry,
                                 std::span<std::byte> bytes) {
  Status status = read_bytes(files, file, entry.offset(), bytes);
  if (status.code() == StatusCode::NotFound) return Status(StatusCode::Corruption, "the file ends within the record");
  if (!status.ok()) return status;
  const StoredRecord record{.header = header_in(bytes),
                            .head = bytes.first(entry.head_bytes()),
                            .payload = bytes.subspan(entry.head_bytes())};
  if (!is_head_of(record.head, entry) ||
      hash_of(record.payload.first(entry.payload_bytes)) != record.header.payload_hash) {
    return Status(StatusCode::Corruption, "the record is damaged");
  }
  return record;
}

Result<std::vector<BlockKey>> read_erased_keys(FileSystem& files, const File& file, const FooterEntry& entry) {
  AlignedBuffer buffer;
  auto record = read_record(files, file, entry, buffer.take(entry.record_bytes()));
  if (!record.ok()) return record.status();
  std::vector<BlockKey> keys(entry.payload_bytes / sizeof(BlockKey));
  if (!keys.empty()) std::memcpy(keys.data(), record->payload.data(), entry.payload_bytes);
  return keys;
}

Result<std::vector<std::uint64_t>> list_segments(FileSystem& files, const std::string& directory) {
  auto names = files.list(directory);
  if (!names.ok()) return names.status();
  std::vector<std::uint64_t> numbers;
  for (const std::string& name : *names) {
    if (const auto number = segment_number(name)) numbers.push_back(*number);
  }
  std::ranges::sort(numbers);
  return numbers;
}

std::string segment_path(const std::string& directory, std::uint64_t number) {
  return fmt::format("{}/{}", directory, segment_name(number));
}

std::string lock_path(const std::string& directory) { return directory + "/LOCK"; }

}  // namespace tiercel::disk
