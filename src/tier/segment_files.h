// The files of a disk directory, opened when they are read and closed when too many are open: a directory may have more
// of them than a process may open.
//
// Thread-safe. Who holds a file may read it to the end, even after it was given back.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "tier/file_system.h"

namespace tiercel::disk {

class SegmentFiles {
 public:
  static constexpr std::size_t kMostOpen = 32;  // of at most two descriptors each

  SegmentFiles(std::shared_ptr<FileSystem> files, std::string directory)
      : files_(std::move(files)), directory_(std::move(directory)) {}

  FileSystem& system() const { return *files_; }
  const std::string& directory() const { return directory_; }
  // To be read. NotFound where there is no such segment. May throw std::bad_alloc.
  Result<std::shared_ptr<const File>> open(std::uint64_t number);
  // It was given back, or is no longer needed.
  void close(std::uint64_t number);

 private:
  const std::shared_ptr<FileSystem> files_;
  const std::string directory_;
  std::mutex mutex_;
  std::list<std::pair<std::uint64_t, std::shared_ptr<const File>>> open_;  // most recently used first
};

}  // namespace tiercel::disk
