// Files, as the disk tier needs them: a seam, so that tests can tear, lose, delay and refuse what the system would do.
//
// Thread-safety: a FileSystem and its Files may be used from any thread; writes to one file come from one thread at a
// time. Statuses: NotFound where there is no such file, ResourceExhausted where the disk is full, Unavailable for all
// else, with what the system said in the message. Throws nothing but std::bad_alloc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tiercel/status.h"

namespace tiercel {

// Offset, size and address of what goes past the page cache are multiples of this.
inline constexpr std::size_t kDirectAlignment = 4096;

class File {
 public:
  virtual ~File() = default;
  virtual Result<std::uint64_t> size() const = 0;
  // All buffers, one behind the other from `offset` on. Not Ok: any part of them may have been written.
  virtual Status write(std::uint64_t offset, std::span<const std::span<const std::byte>> buffers) = 0;
  // What was written survives the loss of power.
  virtual Status sync() = 0;
  virtual Status truncate(std::uint64_t size) = 0;
};

struct FileRead {
  const File* file = nullptr;
  std::uint64_t offset = 0;
  std::span<std::byte> bytes;
  // Out. Ok: all bytes were read. NotFound: the file ends before.
  Status status = {};
};

// Held until destruction or the end of the process, however it ends.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

class FileSystem {
 public:
  enum class OpenMode : std::uint8_t {
    Read,
    ReadWrite,
    CreateNew,  // and read and write; Unavailable where it is there already. Mode 0600
  };

  virtual ~FileSystem() = default;
  virtual Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) = 0;
  // Reads everything, in whatever order is fastest, and returns when all is done. Reads that follow each other in the
  // list and in the file are one operation. Bytes that are in the page cache come from there; others are read past it
  // where alignment allows.
  virtual void read(std::span<FileRead> reads) = 0;
  virtual Status remove(const std::string& path) = 0;
  // Names in the directory, without "." and "..", in no order.
  virtual Result<std::vector<std::string>> list(const std::string& directory) = 0;
  // Of mode 0700. Ok where it is there already.
  virtual Status make_directory(const std::string& directory) = 0;
  // Files created and removed in it stay so after the loss of power.
  virtual Status sync_directory(const std::string& directory) = 0;
  // Creates `path` where it is missing. Rejected where another process, or this one, holds it.
  virtual Result<std::unique_ptr<FileLock>> lock(const std::string& path) = 0;
  // Whether a lock() would be Rejected now.
  virtual bool is_locked(const std::string& path) = 0;
};

// The system's files, with io_uring where the kernel has it, else with threads.
std::shared_ptr<FileSystem> posix_file_system();

}  // namespace tiercel
