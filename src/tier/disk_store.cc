#include "tier/disk_store.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"
#include "tier/reading_team.h"

namespace tiercel {
namespace {

using disk::FooterEntry;
using disk::RecordHeader;
using disk::RecordKind;

constexpr std::chrono::milliseconds kRefreshInterval{1000};
constexpr int kRefreshShare = 20;              // looking takes at most one part in so many of a reader's time
constexpr std::size_t kLeastSegments = 4;      // of a capacity
constexpr std::size_t kMostSegments = 256;     // so that a directory is opened fast
constexpr std::size_t kRecordsPerSegment = 8;  // at least
constexpr std::size_t kMostSegmentBytes = std::size_t{4} << 30;

Status not_found() { return Status(StatusCode::NotFound, {}); }
Status corrupt() { return Status(StatusCode::Corruption, {}); }
Status no_memory() { return Status(StatusCode::Unavailable, {}); }

}  // namespace

DiskStore::DiskStore(DiskTierOptions options, std::shared_ptr<FileSystem> files)
    : options_(std::move(options)), files_(std::move(files), options_.directory) {
  if (!options_.encryption_key.empty()) cipher_.emplace(options_.encryption_key);
}

DiskStore::~DiskStore() {
  {
    const std::lock_guard lock(index_mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (refresher_.joinable()) refresher_.join();
  try {
    if (log_) log_->seal();
  } catch (const std::bad_alloc&) {
    // Then it is found record by record.
  }
}

Result<std::shared_ptr<TierStore>> disk_tier(const DiskTierOptions& options) try {
  if (options.directory.empty()) return Status::invalid_argument("directory is empty; give one for the disk tier");
  if (options.segment_bytes < (std::size_t{1} << 20) || options.segment_bytes > kMostSegmentBytes) {
    return Status::invalid_argument(fmt::format("segment_bytes is {}; give 1 MiB to 4 GiB", options.segment_bytes));
  }
  if (!options.encryption_key.empty() && options.encryption_key.size() != RecordCipher::kKeyBytes) {
    return Status::invalid_argument(fmt::format("encryption_key has {} bytes; give {}, or none",
                                                options.encryption_key.size(), RecordCipher::kKeyBytes));
  }
  return std::shared_ptr<TierStore>(std::make_shared<DiskStore>(options, posix_file_system()));
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a disk tier");
}

// ---- Opening

Status DiskStore::open(const KvLayout& layout, const Fingerprint& fingerprint) try {
  block_bytes_ = layout.block_bytes();
  fingerprint_ = fingerprint;
  team_ = reading_team();
  for (const Codec codec : {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4}) {
    if (codec != options_.codec && !is_codec_for(codec, layout.dtype)) continue;  // of no record of this model
    const auto i = static_cast<std::size_t>(codec);
    auto made = make_codec(codec, layout);
    if (!made.ok()) return made.status();
    codec_of_[i] = *std::move(made);
    for (std::size_t thread = 0; thread < team_->threads(); ++thread) {
      read_workspaces_[i].push_back(codec_of_[i]->make_workspace());
    }
  }
  const BlockCodec& codec = *codec_of_[static_cast<std::size_t>(options_.codec)];
  write_workspace_ = codec.make_workspace();
  const std::lock_guard write_lock(write_mutex_);
  if (options_.read_only) {
    TIERCEL_RETURN_IF_ERROR(load_directory(nullptr));
    refresher_ = std::thread([this] { refresh_now_and_then(); });
    return {};
  }
  const std::size_t record_bytes = disk::padded(sizeof(RecordHeader) + layout.block_tokens * sizeof(TokenId)) +
                                   disk::padded(codec.max_encoded_bytes());
  std::size_t segment_bytes = std::max({options_.segment_bytes, kRecordsPerSegment * record_bytes + 2 * disk::kPage,
                                        options_.capacity_bytes / kMostSegments});
  segment_bytes = std::min(segment_bytes, std::max(options_.capacity_bytes / kLeastSegments, 2 * record_bytes));
  segment_bytes = std::min(disk::padded(segment_bytes), kMostSegmentBytes);
  if (options_.capacity_bytes < kLeastSegments * segment_bytes || record_bytes > segment_bytes / 2) {
    return Status::invalid_argument(fmt::format("capacity_bytes of the disk tier is {}; blocks of {} bytes need {}",
                                                options_.capacity_bytes, block_bytes_,
                                                kLeastSegments * (2 * record_bytes + 2 * disk::kPage)));
  }
  FileSystem& system = files_.system();
  TIERCEL_RETURN_IF_ERROR(system.make_directory(options_.directory));
  auto lock = system.lock(disk::lock_path(options_.directory));
  if (!lock.ok()) {
    if (lock.status().code() != StatusCode::Rejected) return lock.status();
    return Status(StatusCode::Rejected,
                  fmt::format("{} is written by another cache; close that one, give this one another directory, or "
                              "open it read_only",
                              options_.directory));
  }
  lock_ = *std::move(lock);
  // So that the directory itself survives the loss of power.
  const std::string parent = std::filesystem::path(options_.directory + "/.").parent_path().parent_path().string();
  if (const Status synced = system.sync_directory(parent.empty() ? "." : parent); !synced.ok()) {
    log().warn("the directory of the disk tier may be lost with the power: {}", synced.message());
  }
  {
    const std::lock_guard index_lock(index_mutex_);
    counts_.capacity_bytes = options_.capacity_bytes;
  }
  TIERCEL_RETURN_IF_ERROR(
      load_directory(std::make_unique<disk::SegmentLog>(files_, options_.capacity_bytes, segment_bytes)));
  while (log_->is_over_capacity() && log_->oldest()) TIERCEL_RETURN_IF_ERROR(give_back_oldest(/*keep_used=*/false));
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a disk tier");
} catch (const std::system_error&) {
  return Status::unavailable("the system gives no thread for a disk tier");
}

Status DiskStore::load_directory(std::unique_ptr<disk::SegmentLog> segments) {
  auto numbers = disk::list_segments(files_.system(), options_.directory);
  if (!numbers.ok()) return numbers.status();
  disk::DiskIndex index(fingerprint_, cipher_ ? cipher_->key_name() : 0);
  for (const std::uint64_t number : *numbers) {
    TIERCEL_RETURN_IF_ERROR(load_segment(number, number == numbers->back(), index, segments.get()));
  }
  index.settle();
  if (segments) {
    sequence_ = index.highest_sequence();
    log_ = std::move(segments);
  }
  const std::lock_guard lock(index_mutex_);
  if (!forgets_) index_.emplace(std::move(index));
  if (log_) counts_.stored_bytes = log_->file_bytes();
  return {};
}

Status DiskStore::load_segment(std::uint64_t number, bool is_last, disk::DiskIndex& index, disk::SegmentLog* segments) {
  FileSystem& system = files_.system();
  const std::string path = disk::segment_path(options_.directory, number);
  auto file = system.open(path, FileSystem::OpenMode::Read);
  if (!file.ok()) {
    // NotFound: the writer gave it back meanwhile.
    return file.status().code() == StatusCode::NotFound ? Status() : file.status();
  }
  const auto segment = std::make_shared<disk::Segment>();
  segment->number = number;
  if (const auto size = (*file)->size(); size.ok()) segment->bytes = *size;
  auto records = disk::read_segment(system, **file, number, /*verify=*/segments != nullptr);
  if (!records.ok()) {
    const StatusCode code = records.status().code();
    if (code != StatusCode::Corruption && code != StatusCode::NotFound) return records.status();
    log().warn("the disk tier cannot use {}: {}", path, records.status().message());
    if (segments != nullptr) segments->adopt_unusable(segment);
    return {};
  }
  for (const FooterEntry& entry : records->entries) {
    index.load(segment, entry);
    if (entry.kind != RecordKind::ErasedKeys || entry.fingerprint != fingerprint_) continue;
    auto keys = disk::read_erased_keys(system, **file, entry);
    if (keys.ok()) {
      index.load_erased(*keys, entry.sequence);
    } else {
      // Which blocks were to be forgotten is not known any more: all of that time are.
      index.load_erased_all(entry.sequence);
    }
  }
  if (segments != nullptr) segments->adopt(segment, *records, is_last);
  return {};
}

void DiskStore::refresh_now_and_then() {
  std::unique_lock lock(index_mutex_);
  while (!closing_) {
    changed_.wait(lock, [&] { return closing_ || missed_; });
    if (closing_) return;
    missed_ = false;
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    try {
      if (const Status loaded = load_directory(nullptr); !loaded.ok()) {
        log().warn("the disk tier cannot look for new blocks: {}", loaded.message());
      }
    } catch (const std::bad_alloc&) {
      // Tried again when the next one is missed.
    }
    const auto took = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began);
    lock.lock();
    changed_.wait_for(lock, std::max(kRefreshInterval, kRefreshShare * took), [&] { return closing_; });
  }
}

std::size_t DiskStore::leading(std::span<const BlockKey> keys) const {
  const std::lock_guard lock(index_mutex_);
  const std::size_t known = index_ ? index_->use_leading(keys) : 0;
  if (options_.read_only && known < keys.size() && !std::exchange(missed_, true)) changed_.notify_all();
  return known;
}

// ---- Reading

bool DiskStore::is_in_place(const FooterEntry& entry) const {
  return entry.codec == Codec::Raw && entry.payload_bytes == block_bytes_ && disk::padded(block_bytes_) == block_bytes_;
}

void DiskStore::read(std::span<TierRead> reads) try {
  const std::lock_guard buffers(read_mutex_);
  std::vector<Reading> readings;
  readings.reserve(reads.size());
  std::size_t buffer_bytes = 0;
  {
    const std::lock_guard lock(index_mutex_);
    const disk::DiskIndex::Place* place = nullptr;
    for (TierRead& read : reads) {
      place = index_ ? index_->find(disk::DiskIndex::Asked(read), place) : nullptr;
      const bool fits = place != nullptr && read.bytes.size() == block_bytes_;
      read.status = fits ? Status() : not_found();
      if (!fits) {
        ++counts_.missed_blocks;
        continue;
      }
      place->used = true;
      readings.push_back({.read = &read, .place = *place, .file = {}, .head = {}, .payload = {}});
      buffer_bytes += is_in_place(place->entry) ? place->entry.head_bytes() : place->entry.record_bytes();
    }
  }
  std::span<std::byte> buffer = read_buffer_.take(buffer_bytes);
  const auto take = [&](std::size_t bytes) {
    const auto taken = buffer.first(bytes);
    buffer = buffer.subspan(bytes);
    return taken;
  };
  std::vector<FileRead> file_reads;
  std::vector<Reading*> opened;
  file_reads.reserve(2 * readings.size());
  opened.reserve(readings.size());
  for (Reading& reading : readings) {
    const FooterEntry& entry = reading.place.entry;
    auto file = files_.open(reading.place.segment->number);
    if (!file.ok()) {
      reading.read->status = file.status();  // NotFound: given back meanwhile
      continue;
    }
    reading.file = *std::move(file);
    opened.push_back(&reading);
    reading.head = take(entry.head_bytes());
    reading.payload = is_in_place(entry) ? reading.read->bytes : take(disk::padded(entry.payload_bytes));
    file_reads.push_back({.file = reading.file.get(), .offset = entry.offset(), .bytes = reading.head});
    file_reads.push_back(
        {.file = reading.file.get(), .offset = entry.offset() + reading.head.size(), .bytes = reading.payload});
  }
  files_.system().read(file_reads);
  team_->run(opened.size(), [&](std::size_t i, std::size_t thread) {
    Status status = std::move(file_reads[2 * i].status);
    if (status.ok()) status = std::move(file_reads[2 * i + 1].status);
    if (status.code() == StatusCode::NotFound) status = corrupt();  // the file ends within the record
    opened[i]->read->status = status.ok() ? verify(*opened[i], thread) : std::move(status);
  });
  for (const Reading& reading : readings) settle_read(reading);
} catch (const std::bad_alloc&) {
  for (TierRead& read : reads) read.status = no_memory();
}

Status DiskStore::verify(Reading& reading, std::size_t thread) {
  const FooterEntry& entry = reading.place.entry;
  if (!disk::is_head_of(reading.head, entry)) return corrupt();
  RecordHeader header;
  std::memcpy(&header, reading.head.data(), sizeof header);
  const std::span<std::byte> tokens = reading.head.subspan(sizeof header, entry.tokens * sizeof(TokenId));
  const std::span<std::byte> payload = reading.payload.first(entry.payload_bytes);
  if (disk::hash_of(payload) != header.payload_hash) return corrupt();
  if ((entry.flags & disk::kEncrypted) != 0) {
    if (!cipher_) return not_found();
    TIERCEL_RETURN_IF_ERROR(
        cipher_->decrypt(header.nonce, reading.head.first(disk::kAssociatedBytes), tokens, payload, header.tag));
  }
  TierRead& read = *reading.read;
  if (!std::ranges::equal(tokens, std::as_bytes(read.tokens))) return not_found();
  read.copyable = (entry.flags & disk::kCopyable) != 0;
  if (payload.data() == read.bytes.data()) return {};
  const auto codec = static_cast<std::size_t>(entry.codec);
  if (codec >= std::size(codec_of_) || !codec_of_[codec]) return corrupt();
  return codec_of_[codec]->decode(payload, read.bytes, *read_workspaces_[codec][thread]);
}

void DiskStore::settle_read(const Reading& reading) {
  const Status& status = reading.read->status;
  const FooterEntry& entry = reading.place.entry;
  bool tell = false;
  {
    const std::lock_guard lock(index_mutex_);
    switch (status.code()) {
      case StatusCode::Ok:
        ++counts_.read_blocks;
        counts_.read_bytes += entry.record_bytes();
        break;
      case StatusCode::NotFound: ++counts_.missed_blocks; break;
      case StatusCode::Corruption:
        ++counts_.corrupt_blocks;
        index_->lose(entry.key, entry.sequence);
        tell = !std::exchange(reading.place.segment->told_damage, true);
        break;
      default: ++counts_.errors;
    }
  }
  if (!tell) return;
  log().error("the disk tier found a damaged record at byte {} of {}; it is computed again", entry.offset(),
              disk::segment_path(options_.directory, reading.place.segment->number));
}

}  // namespace tiercel
