// A file system in memory, for tests: it fails as asked, and shows what is left after the loss of power or kill -9.
//
//   auto files = std::make_shared<FaultyFileSystem>();
//   files->set_faults({.seed = 7, .error_one_in = 20});
//   ... write, sync ...
//   auto after = files->crash(8);  // another file system, with no faults; `files` goes on undisturbed
//
// Everything is decided by seeds and the order of calls. Paths are as in "directory/name"; the root is there, other
// directories are made. A File keeps what it needs alive.
//
// Thread-safety: all methods from any thread, crash() and kill() also within Faults::before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tier/file_system.h"

namespace tiercel {

enum class FileOperation : std::uint8_t {
  Open,
  Read,  // of each FileRead
  Size,
  Write,
  Sync,
  Truncate,
  Remove,
  List,
  MakeDirectory,
  SyncDirectory,
  Lock,
};
std::string_view to_string(FileOperation operation);

struct FileFaults {
  std::uint64_t seed = 1;
  // One operation in so many fails (EIO); 0: none. A write leaves any of its sectors written, or its first bytes. What
  // a failed sync did not save is not saved by the next one either.
  std::uint64_t error_one_in = 0;
  std::vector<FileOperation> error_operations = {};  // these alone; empty: all
  // One write in so many fails (EIO) after any number of bytes.
  std::uint64_t short_write_one_in = 0;
  // Of all files together; a write fills it up, then fails (ENOSPC).
  std::uint64_t capacity_bytes = UINT64_MAX;
  bool read_only = false;
  // Called before each operation, in its thread and with nothing locked: it may wait, for ever if need be.
  std::function<void(FileOperation operation, const std::string& path)> before = {};
};

class FaultyFileSystem final : public FileSystem {
 public:
  FaultyFileSystem();
  ~FaultyFileSystem() override;

  void set_faults(FileFaults faults);
  std::uint64_t operations() const;  // so far

  // As it is found after the loss of power now. Of what was not synced, any subset of 512-byte sectors, in any order,
  // is lost (simulated_file.h). Files created or removed in a directory that was not synced since may be there or not.
  std::shared_ptr<FaultyFileSystem> crash(std::uint64_t seed) const;
  // As it is found after kill -9 now: everything is there, but the last write may end at any byte, as if the process
  // had died within it. What was not synced is not safe from a later crash().
  std::shared_ptr<FaultyFileSystem> kill(std::uint64_t seed) const;

  // Whether there is something that a sync left out which failed: it goes with the power, whatever later syncs say.
  bool has_given_up() const;

  // Past all faults: what is in a file, empty where there is none; and to put it there, created and synced.
  std::vector<std::byte> contents(const std::string& path) const;
  void set_contents(const std::string& path, std::span<const std::byte> bytes);

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override;
  void read(std::span<FileRead> reads) override;
  Status remove(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& directory) override;
  Status make_directory(const std::string& directory) override;
  Status sync_directory(const std::string& directory) override;
  Result<std::unique_ptr<FileLock>> lock(const std::string& path) override;
  bool is_locked(const std::string& path) override;

 private:
  struct Disk;
  class OpenFile;
  class HeldLock;

  std::shared_ptr<Disk> disk_;  // shared with the Files
};

}  // namespace tiercel
