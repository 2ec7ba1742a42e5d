// KV blocks in files: they survive a restart and kill -9, and are verified when they are read. docs/disk_format.md has
// the bytes.
//
// One process writes a directory at a time; any number may read it meanwhile. One directory may hold blocks of several
// models. Files are created 0600 in a directory of 0700: KV reveals the prompt it was computed from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tiercel/status.h"
#include "tiercel/tier_store.h"

namespace tiercel {

struct DiskTierOptions {
  // Created where it is missing, its parent must exist. Required.
  std::string directory = {};
  // Most bytes of all files together, of all models. When it is reached, the oldest segment is given back; those of its
  // blocks that were used since they were written are kept, up to half of it. Room for at least 8 blocks as written.
  // Default 16 GiB.
  std::size_t capacity_bytes = std::size_t{16} << 30;
  // Bytes of one file: 1 MiB .. 4 GiB. Raised to 8 blocks and to 1/256 of the capacity, lowered to 1/4 of it. Default
  // 64 MiB.
  std::size_t segment_bytes = std::size_t{64} << 20;
  Codec codec = Codec::Raw;
  // 32 bytes: tokens and KV are encrypted with AES-256-GCM. Empty: they are not. Blocks written with another key, or
  // with none, are not found.
  std::string encryption_key = {};
  // Takes no lock and writes nothing; sees what the writer has written when the cache opens, and looks again when a
  // block is not found.
  bool read_only = false;
};

// InvalidArgument naming the option. What the file system says comes from TierStore::open(): Rejected where another
// process writes the directory, Unavailable where it cannot be read or written.
Result<std::shared_ptr<TierStore>> disk_tier(const DiskTierOptions& options);

// ---- Looking into a directory without a model

struct DiskSegmentInfo {
  std::uint64_t number = 0;
  std::size_t file_bytes = 0;
  std::size_t blocks = 0;      // found by a store that opens the directory
  std::size_t live_bytes = 0;  // of these
  bool sealed = false;         // has a footer; else it is open, or was when a process died
};

struct DiskModelInfo {
  Fingerprint fingerprint;
  std::size_t blocks = 0;
  std::size_t live_bytes = 0;
  std::uint64_t tokens = 0;
};

struct DiskDirectoryInfo {
  std::vector<DiskSegmentInfo> segments;  // in order of number
  std::vector<DiskModelInfo> models;      // in order of fingerprint
  bool locked = false;                    // a process writes it now
  std::size_t file_bytes = 0;
  std::size_t blocks = 0;
};
Result<DiskDirectoryInfo> inspect_disk_directory(const std::string& directory);

struct DiskVerification {
  std::size_t whole_blocks = 0;
  std::size_t corrupt_blocks = 0;
  std::size_t unreadable_bytes = 0;  // of segments, that belong to no record
};
// Reads every record and checks its checksums; changes nothing. `on_progress(done_bytes, total_bytes)` may be empty.
Result<DiskVerification> verify_disk_directory(const std::string& directory,
                                               const std::function<void(std::size_t, std::size_t)>& on_progress);

// Deletes the oldest segments until the files take at most `capacity_bytes` (0: all), and those behind them that hold
// nothing. Returns the bytes given back. Rejected where a process writes the directory.
Result<std::size_t> prune_disk_directory(const std::string& directory, std::size_t capacity_bytes);

}  // namespace tiercel
