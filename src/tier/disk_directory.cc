// Looking into a directory of the disk tier without a model.
#include <algorithm>
#include <array>
#include <map>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "tier/aligned_buffer.h"
#include "tier/disk_segment.h"
#include "tiercel/disk_tier.h"

namespace tiercel {
namespace {

using disk::FooterEntry;
using disk::RecordKind;

struct OpenedSegment {
  std::uint64_t number = 0;
  std::unique_ptr<File> file;
  std::size_t file_bytes = 0;
  disk::SegmentRecords records;
};

// Calls visit(segment) for each, in order. One that is no segment has no records.
template <class Visit>
Status for_each_segment(FileSystem& files, const std::string& directory, const Visit& visit) {
  auto numbers = disk::list_segments(files, directory);
  if (!numbers.ok()) return numbers.status();
  for (const std::uint64_t number : *numbers) {
    auto file = files.open(disk::segment_path(directory, number), FileSystem::OpenMode::Read);
    if (file.status().code() == StatusCode::NotFound) continue;
    if (!file.ok()) return file.status();
    OpenedSegment segment{.number = number, .file = *std::move(file), .file_bytes = 0, .records = {}};
    auto size = segment.file->size();
    if (!size.ok()) return size.status();
    segment.file_bytes = *size;
    auto records = disk::read_segment(files, *segment.file, number, /*verify=*/false);
    if (records.ok()) segment.records = *std::move(records);
    TIERCEL_RETURN_IF_ERROR(visit(std::move(segment)));
  }
  return {};
}

using FingerprintWords = std::array<std::uint64_t, 2>;
using BlockName = std::pair<FingerprintWords, std::pair<std::uint64_t, std::uint64_t>>;

BlockName name_of(const Fingerprint& fingerprint, const BlockKey& key) {
  return {fingerprint.words, {key.low, key.high}};
}

// Which record of a block counts, by erasures and by what was written again.
class LiveBlocks {
 public:
  Status load(FileSystem& files, const OpenedSegment& segment) {
    for (const FooterEntry& entry : segment.records.entries) {
      const FingerprintWords& model = entry.fingerprint.words;
      switch (entry.kind) {
        case RecordKind::Block: blocks_[name_of(entry.fingerprint, entry.key)] = {segment.number, entry}; break;
        case RecordKind::ErasedTenant: raise(tenants_[{model, entry.tenant}], entry.sequence); break;
        case RecordKind::ErasedFingerprint: raise(models_[model], entry.sequence); break;
        case RecordKind::ErasedKeys:
          const auto keys = disk::read_erased_keys(files, *segment.file, entry);
          if (!keys.ok()) break;
          for (const BlockKey& key : *keys) raise(keys_[name_of(entry.fingerprint, key)], entry.sequence);
      }
    }
    return {};
  }
  template <class Visit>
  void for_each(const Visit& visit) {
    for (const auto& [name, block] : blocks_) {
      const auto& [segment, entry] = block;
      const std::uint64_t erased =
          std::max({at(models_, name.first), at(tenants_, std::pair(name.first, entry.tenant)), at(keys_, name)});
      if (entry.sequence >= erased) visit(segment, entry);
    }
  }

 private:
  static void raise(std::uint64_t& sequence, std::uint64_t to) { sequence = std::max(sequence, to); }
  template <class Map, class Key>
  static std::uint64_t at(const Map& map, const Key& key) {
    const auto found = map.find(key);
    return found == map.end() ? 0 : found->second;
  }

  std::map<BlockName, std::pair<std::uint64_t, FooterEntry>> blocks_;
  std::map<FingerprintWords, std::uint64_t> models_;
  std::map<std::pair<FingerprintWords, std::uint64_t>, std::uint64_t> tenants_;
  std::map<BlockName, std::uint64_t> keys_;
};

Status no_memory() { return Status::unavailable("the system gives no memory to look into a disk tier"); }

}  // namespace

Result<DiskDirectoryInfo> inspect_disk_directory(const std::string& directory) try {
  const auto files = posix_file_system();
  DiskDirectoryInfo info;
  LiveBlocks live;
  const Status read = for_each_segment(*files, directory, [&](OpenedSegment segment) {
    info.segments.push_back({.number = segment.number,
                             .file_bytes = segment.file_bytes,
                             .blocks = 0,
                             .live_bytes = 0,
                             .sealed = segment.records.sealed});
    info.file_bytes += segment.file_bytes;
    return live.load(*files, segment);
  });
  if (!read.ok()) return read;
  std::map<FingerprintWords, DiskModelInfo> models;
  live.for_each([&](std::uint64_t number, const FooterEntry& entry) {
    DiskSegmentInfo& segment = *std::ranges::find(info.segments, number, &DiskSegmentInfo::number);
    DiskModelInfo& model = models[entry.fingerprint.words];
    model.fingerprint = entry.fingerprint;
    ++segment.blocks;
    ++model.blocks;
    ++info.blocks;
    segment.live_bytes += entry.record_bytes();
    model.live_bytes += entry.record_bytes();
    model.tokens += entry.tokens;
  });
  for (auto& [words, model] : models) info.models.push_back(model);
  info.locked = files->is_locked(disk::lock_path(directory));
  return info;
} catch (const std::bad_alloc&) {
  return no_memory();
}

Result<DiskVerification> verify_disk_directory(const std::string& directory,
                                               const std::function<void(std::size_t, std::size_t)>& on_progress) try {
  const auto files = posix_file_system();
  auto info = inspect_disk_directory(directory);
  if (!info.ok()) return info.status();
  DiskVerification found;
  std::size_t done_bytes = 0;
  AlignedBuffer buffer;
  const auto tell = [&] {
    if (on_progress) on_progress(std::min(done_bytes, info->file_bytes), info->file_bytes);
  };
  const Status read = for_each_segment(*files, directory, [&](OpenedSegment segment) -> Status {
    const std::size_t before = done_bytes;
    for (const FooterEntry& entry : segment.records.entries) {
      auto record = disk::read_record(*files, *segment.file, entry, buffer.take(entry.record_bytes()));
      const bool damaged = record.status().code() == StatusCode::Corruption;
      if (!record.ok() && !damaged) return record.status();
      if (entry.kind == RecordKind::Block) ++(damaged ? found.corrupt_blocks : found.whole_blocks);
      done_bytes += entry.record_bytes();
      tell();
    }
    if (!segment.records.sealed && segment.file_bytes > segment.records.end) {
      found.unreadable_bytes += segment.file_bytes - segment.records.end;
    }
    done_bytes = before + segment.file_bytes;
    tell();
    return {};
  });
  if (!read.ok()) return read;
  return found;
} catch (const std::bad_alloc&) {
  return no_memory();
}

Result<std::size_t> prune_disk_directory(const std::string& directory, std::size_t capacity_bytes) try {
  const auto files = posix_file_system();
  auto numbers = disk::list_segments(*files, directory);
  if (!numbers.ok()) return numbers.status();
  auto lock = files->lock(disk::lock_path(directory));
  if (!lock.ok()) {
    if (lock.status().code() != StatusCode::Rejected) return lock.status();
    return Status(StatusCode::Rejected, fmt::format("{} is written by a process now; end that first", directory));
  }
  auto info = inspect_disk_directory(directory);
  if (!info.ok()) return info.status();
  std::size_t left = info->file_bytes, given_back = 0;
  // An erasure outlives the records that it kills: only from the front may segments go.
  for (const DiskSegmentInfo& segment : info->segments) {
    if (left <= capacity_bytes && segment.blocks > 0) break;
    if (left <= capacity_bytes && &segment != &info->segments.front() && given_back == 0) break;
    TIERCEL_RETURN_IF_ERROR(files->remove(disk::segment_path(directory, segment.number)));
    left -= segment.file_bytes;
    given_back += segment.file_bytes;
  }
  TIERCEL_RETURN_IF_ERROR(files->sync_directory(directory));
  return given_back;
} catch (const std::bad_alloc&) {
  return no_memory();
}

}  // namespace tiercel
