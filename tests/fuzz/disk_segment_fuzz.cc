// A segment of the disk tier of any bytes: footers, records one by one, and a whole store that opens the directory.
//
// Hashes keep a fuzzer out, so the first byte says which of them are made right again after it changed things.
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/fuzz/expect.h"
#include "tests/tier/disk_fixture.h"
#include "tests/tier/faulty_file_system.h"

namespace tiercel {
namespace {

using disk::kPage;

constexpr std::uint64_t kNumber = 1;
constexpr std::size_t kMostBytes = 64 * kPage;

template <class Struct>
Struct struct_at(std::span<const std::byte> bytes, std::size_t offset) {
  Struct value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

void put(std::span<std::byte> bytes, std::size_t offset, const auto& value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

// Makes the hashes of record headers right, as a program that writes nonsense would.
void seal_records(std::span<std::byte> file) {
  for (std::size_t offset = kPage; offset + kPage <= file.size();) {
    auto header = struct_at<disk::RecordHeader>(file, offset);
    disk::seal(header);
    put(file, offset, header);
    if (header.record_bytes() > file.size() - offset) break;
    offset += header.record_bytes();
  }
}

// Puts a footer with the entries that the file has behind `offset` at its end.
void add_footer(std::vector<std::byte>& file, std::size_t count) {
  std::vector<disk::FooterEntry> entries;
  for (std::size_t i = 0, at = kPage; i < count && at + sizeof(disk::FooterEntry) <= file.size(); ++i) {
    entries.push_back(struct_at<disk::FooterEntry>(file, at));
    at += sizeof(disk::FooterEntry);
  }
  const std::string footer = disk::make_footer(entries, file.size());
  const auto bytes = std::as_bytes(std::span(footer));
  file.insert(file.end(), bytes.begin(), bytes.end());
}

// A good segment of two blocks and an erasure, as a store writes it.
const std::vector<std::byte>& good_segment() {
  static const std::vector<std::byte> segment = [] {
    log().set_level(spdlog::level::off);
    auto files = std::make_shared<FaultyFileSystem>();
    {
      DiskStore store({.directory = "/kv", .capacity_bytes = 64 * kRecordBytes}, files);
      TIERCEL_FUZZ_EXPECT(store.open(kDiskLayout, kModel).ok());
      for (std::uint64_t i = 1; i <= 3; ++i) TIERCEL_FUZZ_EXPECT(write(store, DiskBlock(1, i)).ok());
      TIERCEL_FUZZ_EXPECT(store.erase(DiskBlock::key_of(1, 2), DiskBlock(1, 3).tokens).ok());
    }
    return files->contents(disk::segment_path("/kv", kNumber));
  }();
  return segment;
}

std::vector<std::byte> make_segment(const std::uint8_t* data, std::size_t size) {
  const std::uint8_t how = data[0];
  data += 1, size -= 1;
  std::vector<std::byte> file;
  if ((how & 1) != 0) {
    // A good one with changes: offset (3 bytes), then what is there.
    file = good_segment();
    for (; size >= 4; data += 4, size -= 4) {
      const std::size_t offset = data[0] + 256u * data[1] + 65536u * data[2];
      file[offset % file.size()] = static_cast<std::byte>(data[3]);
    }
    if (size > 0) file.resize(file.size() - data[0] * 100u % file.size());
  } else {
    const auto bytes = std::as_bytes(std::span(data, std::min(size, kMostBytes)));
    file.assign(bytes.begin(), bytes.end());
  }
  if ((how & 2) != 0 && file.size() >= kPage) put(file, 0, disk::make_segment_header(kNumber));
  if ((how & 4) != 0) file.resize(disk::padded(file.size()));
  if ((how & 8) != 0) seal_records(file);
  if ((how & 16) != 0 && file.size() >= kPage && file.size() % kPage == 0) add_footer(file, how >> 5);
  return file;
}

// `hashed`: hashes were made right for what was changed, so that only crashes are wrong.
void open_and_read(const std::shared_ptr<FaultyFileSystem>& files, bool hashed, bool read_only) {
  DiskStore store({.directory = "/kv", .capacity_bytes = 64 * kRecordBytes, .read_only = read_only}, files);
  if (!store.open(kDiskLayout, kModel).ok()) return;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    // Internal: it came back, and was not what was written.
    TIERCEL_FUZZ_EXPECT(read(store, DiskBlock(1, i)) != StatusCode::Internal || hashed);
  }
  static_cast<void>(leading(store, 1, 3));
  if (read_only) return;
  TIERCEL_FUZZ_EXPECT(write(store, DiskBlock(7, 1)).ok());
  TIERCEL_FUZZ_EXPECT(read(store, DiskBlock(7, 1)) == StatusCode::Ok);
  TIERCEL_FUZZ_EXPECT(store.erase_all().ok());
  TIERCEL_FUZZ_EXPECT(read(store, DiskBlock(7, 1)) == StatusCode::NotFound);
}

}  // namespace
}  // namespace tiercel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tiercel;
  if (size < 2) return 0;
  log().set_level(spdlog::level::off);
  const std::vector<std::byte> bytes = make_segment(data, size);
  auto files = std::make_shared<FaultyFileSystem>();
  TIERCEL_FUZZ_EXPECT(files->make_directory("/kv").ok());
  files->set_contents(disk::segment_path("/kv", kNumber), bytes);
  {
    const auto file = files->open(disk::segment_path("/kv", kNumber), FileSystem::OpenMode::Read).value();
    for (const bool verify : {false, true}) {
      const auto records = disk::read_segment(*files, *file, kNumber, verify);
      if (!records.ok()) continue;
      for (const auto& entry : records->entries) {
        TIERCEL_FUZZ_EXPECT(entry.offset() >= disk::kPage && entry.offset() + entry.record_bytes() <= bytes.size());
        if (entry.kind == disk::RecordKind::ErasedKeys) {
          static_cast<void>(disk::read_erased_keys(*files, *file, entry));
        }
      }
    }
  }
  const bool hashed = (data[0] & 8) != 0;
  open_and_read(files, hashed, /*read_only=*/true);
  open_and_read(files, hashed, /*read_only=*/false);
  return 0;
}
