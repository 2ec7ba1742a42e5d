// KV blocks in the segments of a directory: docs/disk_format.md.
//
// Nothing that is read is trusted: record header, fingerprint, key, parent, tokens and hashes must be right, else it is
// a miss. Space is given back by the oldest segment (first in, first out, with a second chance for what was used since:
// CLOCK, Corbato 1968, over a log as in Rosenblum and Ousterhout 1991), so the disk is written in one direction only,
// and an erasure is never older than what it erases.
//
// Locks: read_mutex_ or write_mutex_ before index_mutex_. Files are read and written without index_mutex_.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_team.h"
#include "tier/aligned_buffer.h"
#include "tier/codec.h"
#include "tier/disk_index.h"
#include "tier/record_cipher.h"
#include "tier/segment_log.h"
#include "tiercel/disk_tier.h"

namespace tiercel {

class DiskStore final : public TierStore {
 public:
  DiskStore(DiskTierOptions options, std::shared_ptr<FileSystem> files);
  // Seals the open segment.
  ~DiskStore() override;

  std::string_view name() const override { return "disk"; }
  bool is_durable() const override { return true; }
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override;
  std::size_t leading(std::span<const BlockKey> keys) const override;
  void read(std::span<TierRead> reads) override;
  Status write(std::span<const TierRecord> records) override;
  Status erase(const BlockKey& parent, std::span<const TokenId> tokens) override;
  Status erase_tenant(std::uint64_t tenant) override;
  Status erase_all() override;
  Status flush() override;
  TierStats stats() const override;

 private:
  // A record that is being read.
  struct Reading {
    TierRead* read = nullptr;
    disk::DiskIndex::Place place;
    std::shared_ptr<const File> file;
    std::span<std::byte> head;
    std::span<std::byte> payload;  // as stored: the block itself where it needs no decoding
  };

  // Builds the index anew from the files; a writer's log too.
  Status load_directory(std::unique_ptr<disk::SegmentLog> segments);
  Status load_segment(std::uint64_t number, bool is_last, disk::DiskIndex& index, disk::SegmentLog* segments);
  void refresh_now_and_then();  // the thread of a reader

  bool is_in_place(const disk::FooterEntry& entry) const;
  // On a thread of the team.
  Status verify(Reading& reading, std::size_t thread);
  void settle_read(const Reading& reading);

  // With write_mutex_ locked.
  Status write_block(const TierRecord& record);
  // Fills in the rest of the header (a new sequence where it has none), encrypts, makes room.
  Status append(disk::RecordHeader& header, std::span<const std::byte> tokens, std::span<const std::byte> payload);
  Status append_whole(const disk::RecordHeader& header, std::span<const std::byte> tokens,
                      std::span<const std::byte> payload);
  Status give_back_oldest(bool keep_used);
  // Appends the used ones of those records again, as far as they may; returns which.
  std::vector<disk::FooterEntry> move_used(const disk::Segment& segment, std::span<const disk::FooterEntry> entries);
  Status sync();
  Status append_erasure(disk::RecordKind kind, std::uint64_t tenant, std::span<const BlockKey> keys);
  Status append_erased(disk::RecordHeader& header, std::span<const std::byte> keys);
  // Whether the block's tokens begin with those, or cannot be read (any more).
  bool may_begin_with(const disk::DiskIndex::Place& place, std::span<const TokenId> tokens);

  const DiskTierOptions options_;
  disk::SegmentFiles files_;
  std::optional<RecordCipher> cipher_;  // empty: not encrypted
  std::size_t block_bytes_ = 0;
  Fingerprint fingerprint_;
  std::unique_ptr<BlockCodec> codec_of_[4];  // by Codec; null: not for these blocks

  std::mutex read_mutex_;  // guards the buffers of reads
  AlignedBuffer read_buffer_;
  std::unique_ptr<ThreadTeam> team_;  // what was read is verified and decoded by two threads
  std::vector<std::unique_ptr<BlockCodec::Workspace>> read_workspaces_[4];  // by codec, then by thread

  std::mutex write_mutex_;  // guards what writes
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<disk::SegmentLog> log_;  // null: read_only
  std::unique_ptr<BlockCodec::Workspace> write_workspace_;
  AlignedBuffer encoded_, copied_, head_;
  std::uint64_t sequence_ = 0;

  mutable std::mutex index_mutex_;  // guards everything below
  std::optional<disk::DiskIndex> index_;
  TierStats counts_;
  mutable bool missed_ = false;  // by a reader, since it looked
  bool closing_ = false;
  bool forgets_ = false;  // a reader that forgot something looks no more
  mutable std::condition_variable changed_;
  std::thread refresher_;
};

}  // namespace tiercel
