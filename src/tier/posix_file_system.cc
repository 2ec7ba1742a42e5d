// The system's files.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include <fmt/format.h>

#include "tier/batch_reader.h"
#include "tier/file_system.h"

namespace tiercel {
namespace {

Status system_error(const char* operation, const std::string& path) {
  const int error = errno;
  const std::string message = fmt::format("cannot {} {}: {}", operation, path, std::strerror(error));
  switch (error) {
    case ENOENT: return Status(StatusCode::NotFound, message);
    case ENOSPC:
    case EDQUOT: return Status(StatusCode::ResourceExhausted, message);
    default: return Status(StatusCode::Unavailable, message);
  }
}

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int operator*() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

class PosixFile final : public File {
 public:
  PosixFile(Descriptor descriptor, Descriptor direct, std::string path)
      : descriptor_(std::move(descriptor)), direct_(std::move(direct)), path_(std::move(path)) {}

  Result<std::uint64_t> size() const override {
    struct stat about {};
    if (::fstat(*descriptor_, &about) != 0) return system_error("look at", path_);
    return static_cast<std::uint64_t>(about.st_size);
  }

  Status write(std::uint64_t offset, std::span<const std::span<const std::byte>> buffers) override {
    std::vector<iovec> vectors;
    vectors.reserve(buffers.size());
    for (const auto& buffer : buffers) {
      if (!buffer.empty()) vectors.push_back({const_cast<std::byte*>(buffer.data()), buffer.size()});
    }
    std::span<iovec> rest = vectors;
    while (!rest.empty()) {
      const auto count = static_cast<int>(std::min<std::size_t>(rest.size(), IOV_MAX));
      const ssize_t written = ::pwritev(*descriptor_, rest.data(), count, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return system_error("write", path_);
      offset += static_cast<std::uint64_t>(written);
      auto left = static_cast<std::size_t>(written);
      while (!rest.empty() && left >= rest.front().iov_len) {
        left -= rest.front().iov_len;
        rest = rest.subspan(1);
      }
      if (!rest.empty()) {
        rest.front().iov_base = static_cast<std::byte*>(rest.front().iov_base) + left;
        rest.front().iov_len -= left;
      }
    }
    return {};
  }

  Status sync() override { return ::fdatasync(*descriptor_) == 0 ? Status() : system_error("sync", path_); }

  Status truncate(std::uint64_t size) override {
    return ::ftruncate(*descriptor_, static_cast<off_t>(size)) == 0 ? Status() : system_error("truncate", path_);
  }

  int buffered() const { return *descriptor_; }
  int direct() const { return *direct_; }

 private:
  const Descriptor descriptor_;
  const Descriptor direct_;  // of the same file with O_DIRECT; empty where the file system has none
  const std::string path_;
};

class PosixLock final : public FileLock {
 public:
  explicit PosixLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

 private:
  const Descriptor descriptor_;  // the lock goes with it
};

class PosixFileSystem final : public FileSystem {
 public:
  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
    int flags = O_CLOEXEC | (mode == OpenMode::Read ? O_RDONLY : O_RDWR);
    if (mode == OpenMode::CreateNew) flags |= O_CREAT | O_EXCL;
    Descriptor descriptor(::open(path.c_str(), flags, S_IRUSR | S_IWUSR));
    if (!descriptor) return system_error(mode == OpenMode::CreateNew ? "create" : "open", path);
    Descriptor direct(::open(path.c_str(), O_CLOEXEC | O_RDONLY | O_DIRECT));
    return std::unique_ptr<File>(std::make_unique<PosixFile>(std::move(descriptor), std::move(direct), path));
  }

  void read(std::span<FileRead> reads) override {
    std::vector<BatchRead> batch;
    batch.reserve(reads.size());
    for (const FileRead& read : reads) {
      const auto& file = static_cast<const PosixFile&>(*read.file);
      batch.push_back({.buffered_descriptor = file.buffered(),
                       .direct_descriptor = file.direct(),
                       .offset = read.offset,
                       .bytes = read.bytes});
    }
    reader_.read(batch);
    for (std::size_t i = 0; i < reads.size(); ++i) reads[i].status = std::move(batch[i].status);
  }

  Status remove(const std::string& path) override {
    return ::unlink(path.c_str()) == 0 ? Status() : system_error("remove", path);
  }

  Result<std::vector<std::string>> list(const std::string& directory) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
    if (!stream) return system_error("list", directory);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    if (errno != 0) return system_error("list", directory);
    return names;
  }

  Status make_directory(const std::string& directory) override {
    if (::mkdir(directory.c_str(), S_IRWXU) == 0) return {};
    struct stat about {};
    if (errno == EEXIST && ::stat(directory.c_str(), &about) == 0 && S_ISDIR(about.st_mode)) return {};
    return system_error("make the directory", directory);
  }

  Status sync_directory(const std::string& directory) override {
    const Descriptor descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!descriptor || ::fsync(*descriptor) != 0) return system_error("sync", directory);
    return {};
  }

  Result<std::unique_ptr<FileLock>> lock(const std::string& path) override {
    Descriptor descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR));
    if (!descriptor) return system_error("open", path);
    if (::flock(*descriptor, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return system_error("lock", path);
      return Status(StatusCode::Rejected, fmt::format("{} is locked by a process that uses this directory", path));
    }
    return std::unique_ptr<FileLock>(std::make_unique<PosixLock>(std::move(descriptor)));
  }

  bool is_locked(const std::string& path) override {
    const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    // Given back with the descriptor.
    return descriptor && ::flock(*descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  }

 private:
  BatchReader reader_;
};

}  // namespace

std::shared_ptr<FileSystem> posix_file_system() { return std::make_shared<PosixFileSystem>(); }

}  // namespace tiercel
