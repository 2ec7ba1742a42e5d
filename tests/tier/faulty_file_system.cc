#include "tests/tier/faulty_file_system.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include "tests/tier/simulated_file.h"

namespace tiercel {
namespace {

constexpr std::array kOperationNames = {"open",   "read", "size",           "write",          "sync", "truncate",
                                        "remove", "list", "make directory", "sync directory", "lock"};

// A file, or a directory where `is_directory`.
struct Node {
  bool is_directory = false;
  SimulatedFile file = {};
};
using Nodes = std::map<std::string, std::shared_ptr<Node>>;  // by normal path

std::string normal_path(const std::string& path) {
  std::string normal = std::filesystem::path("/" + path).lexically_normal().string();
  if (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

std::string directory_of(const std::string& path) { return std::filesystem::path(path).parent_path().string(); }

Nodes only_root() { return {{"/", std::make_shared<Node>(Node{.is_directory = true})}}; }

}  // namespace

std::string_view to_string(FileOperation operation) { return kOperationNames[static_cast<std::size_t>(operation)]; }

struct FaultyFileSystem::Disk {
  mutable std::mutex mutex;  // guards everything below
  FileFaults faults;
  std::mt19937_64 random{1};
  std::uint64_t operations = 0;
  Nodes nodes = only_root();
  Nodes synced_nodes = only_root();
  std::shared_ptr<Node> last_written;
  std::set<std::string> locked;

  bool one_in(std::uint64_t n) { return n != 0 && random() % n == 0; }

  // What every operation begins with. Returns with the mutex locked.
  std::pair<std::unique_lock<std::mutex>, Status> begin(FileOperation operation, const std::string& path) {
    std::unique_lock lock(mutex);
    ++operations;
    if (const auto before = faults.before) {
      lock.unlock();
      before(operation, path);
      lock.lock();
    }
    const auto& failing = faults.error_operations;
    const bool may_fail = failing.empty() || std::find(failing.begin(), failing.end(), operation) != failing.end();
    Status status;
    if (may_fail && one_in(faults.error_one_in)) status = error(operation, path, EIO);
    return {std::move(lock), std::move(status)};
  }

  static Status error(FileOperation operation, const std::string& path, int number) {
    const StatusCode code = number == ENOENT   ? StatusCode::NotFound
                            : number == ENOSPC ? StatusCode::ResourceExhausted
                                               : StatusCode::Unavailable;
    return {code, "cannot " + std::string(to_string(operation)) + " " + path + ": " + std::strerror(number)};
  }

  std::shared_ptr<Node> find(const std::string& path) const {
    const auto node = nodes.find(path);
    return node == nodes.end() ? nullptr : node->second;
  }
  bool has_directory(const std::string& path) const {
    const auto node = find(path);
    return node && node->is_directory;
  }

  std::uint64_t free_bytes() const {
    std::uint64_t used = 0;
    for (const auto& [path, node] : nodes) used += node->file.bytes().size();
    return faults.capacity_bytes - std::min(used, faults.capacity_bytes);
  }

  void write(const std::shared_ptr<Node>& node, std::uint64_t offset, std::span<const std::byte> bytes) {
    node->file.write(offset, bytes);
    last_written = node;
  }

  // What is left of a write that failed.
  void write_some(const std::shared_ptr<Node>& node, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (random() % 2 == 0) return write(node, offset, bytes.first(random() % (bytes.size() + 1)));
    for (std::size_t begin = 0; begin < bytes.size();) {
      const std::size_t sector_end = SimulatedFile::kSectorBytes - (offset + begin) % SimulatedFile::kSectorBytes;
      const std::size_t size = std::min(bytes.size() - begin, sector_end);
      if (random() % 2 == 0) write(node, offset + begin, bytes.subspan(begin, size));
      begin += size;
    }
  }
};

class FaultyFileSystem::OpenFile final : public File {
 public:
  OpenFile(std::shared_ptr<Disk> disk, std::string path, std::shared_ptr<Node> node, bool writable)
      : disk_(std::move(disk)), path_(std::move(path)), node_(std::move(node)), writable_(writable) {}

  Result<std::uint64_t> size() const override {
    const auto [lock, status] = disk_->begin(FileOperation::Size, path_);
    if (!status.ok()) return status;
    return std::uint64_t{node_->file.bytes().size()};
  }

  Status write(std::uint64_t offset, std::span<const std::span<const std::byte>> buffers) override {
    std::vector<std::byte> bytes;
    for (const auto& buffer : buffers) bytes.insert(bytes.end(), buffer.begin(), buffer.end());
    const auto [lock, status] = disk_->begin(FileOperation::Write, path_);
    if (const int refusal = why_not_write()) return Disk::error(FileOperation::Write, path_, refusal);
    if (!status.ok()) {
      disk_->write_some(node_, offset, bytes);
      return status;
    }
    if (disk_->one_in(disk_->faults.short_write_one_in)) {
      disk_->write(node_, offset, std::span(bytes).first(disk_->random() % (bytes.size() + 1)));
      return Disk::error(FileOperation::Write, path_, EIO);
    }
    const std::uint64_t room = node_->file.bytes().size() + disk_->free_bytes();  // where the file may end
    const std::uint64_t fitting = room < offset ? 0 : std::min<std::uint64_t>(bytes.size(), room - offset);
    disk_->write(node_, offset, std::span(bytes).first(fitting));
    return fitting == bytes.size() ? Status() : Disk::error(FileOperation::Write, path_, ENOSPC);
  }

  Status sync() override {
    auto [lock, status] = disk_->begin(FileOperation::Sync, path_);
    status.ok() ? node_->file.sync() : node_->file.fail_sync();
    return std::move(status);
  }

  Status truncate(std::uint64_t size) override {
    auto [lock, status] = disk_->begin(FileOperation::Truncate, path_);
    if (const int refusal = why_not_write()) return Disk::error(FileOperation::Truncate, path_, refusal);
    TIERCEL_RETURN_IF_ERROR(status);
    const std::uint64_t old_size = node_->file.bytes().size();
    if (size > old_size && size - old_size > disk_->free_bytes()) {
      return Disk::error(FileOperation::Truncate, path_, ENOSPC);
    }
    node_->file.truncate(size);
    return {};
  }

  Status read(std::uint64_t offset, std::span<std::byte> bytes) const {
    auto [lock, status] = disk_->begin(FileOperation::Read, path_);
    TIERCEL_RETURN_IF_ERROR(status);
    const auto& content = node_->file.bytes();
    if (offset > content.size() || bytes.size() > content.size() - offset) {
      return Status::not_found("cannot read " + path_ + ": it ends before");
    }
    if (!bytes.empty()) std::memcpy(bytes.data(), content.data() + offset, bytes.size());
    return {};
  }

 private:
  int why_not_write() const { return !writable_ ? EBADF : disk_->faults.read_only ? EROFS : 0; }

  const std::shared_ptr<Disk> disk_;
  const std::string path_;
  const std::shared_ptr<Node> node_;
  const bool writable_;
};

class FaultyFileSystem::HeldLock final : public FileLock {
 public:
  HeldLock(std::shared_ptr<Disk> disk, std::string path) : disk_(std::move(disk)), path_(std::move(path)) {}
  ~HeldLock() override {
    const std::lock_guard lock(disk_->mutex);
    disk_->locked.erase(path_);
  }

 private:
  const std::shared_ptr<Disk> disk_;
  const std::string path_;
};

FaultyFileSystem::FaultyFileSystem() : disk_(std::make_shared<Disk>()) {}
FaultyFileSystem::~FaultyFileSystem() = default;

void FaultyFileSystem::set_faults(FileFaults faults) {
  const std::lock_guard lock(disk_->mutex);
  disk_->random.seed(faults.seed);
  disk_->faults = std::move(faults);
}

std::uint64_t FaultyFileSystem::operations() const {
  const std::lock_guard lock(disk_->mutex);
  return disk_->operations;
}

std::shared_ptr<FaultyFileSystem> FaultyFileSystem::crash(std::uint64_t seed) const {
  const std::lock_guard lock(disk_->mutex);
  std::mt19937_64 random(seed);
  auto found = std::make_shared<FaultyFileSystem>();
  Nodes& nodes = found->disk_->nodes;
  std::set<std::string> paths;
  for (const auto& [path, node] : disk_->nodes) paths.insert(path);
  for (const auto& [path, node] : disk_->synced_nodes) paths.insert(path);
  for (const std::string& path : paths) {  // a directory before what is in it
    const auto synced = disk_->synced_nodes.find(path);
    const auto old_node = synced == disk_->synced_nodes.end() ? nullptr : synced->second;
    auto node = disk_->find(path);
    if (node != old_node && random() % 2 == 0) node = old_node;
    if (!node || !found->disk_->has_directory(directory_of(path))) continue;
    nodes[path] = std::make_shared<Node>(Node{node->is_directory, node->file.after_crash(random)});
  }
  found->disk_->synced_nodes = nodes;
  return found;
}

std::shared_ptr<FaultyFileSystem> FaultyFileSystem::kill(std::uint64_t seed) const {
  const std::lock_guard lock(disk_->mutex);
  std::mt19937_64 random(seed);
  auto found = std::make_shared<FaultyFileSystem>();
  std::map<const Node*, std::shared_ptr<Node>> copies;
  const auto copy = [&](const Nodes& nodes) {
    Nodes result;
    for (const auto& [path, node] : nodes) {
      auto& its_copy = copies[node.get()];
      if (!its_copy) its_copy = std::make_shared<Node>(*node);
      result[path] = its_copy;
    }
    return result;
  };
  found->disk_->nodes = copy(disk_->nodes);
  found->disk_->synced_nodes = copy(disk_->synced_nodes);
  if (const auto last = copies.find(disk_->last_written.get()); last != copies.end()) {
    SimulatedFile& file = last->second->file;
    file.cut_last_write(random() % (file.last_write_bytes() + 1));
  }
  return found;
}

bool FaultyFileSystem::has_given_up() const {
  const std::lock_guard lock(disk_->mutex);
  return std::ranges::any_of(disk_->nodes, [](const auto& entry) { return entry.second->file.has_given_up(); });
}

std::vector<std::byte> FaultyFileSystem::contents(const std::string& path) const {
  const std::lock_guard lock(disk_->mutex);
  const auto node = disk_->find(normal_path(path));
  return node ? node->file.bytes() : std::vector<std::byte>();
}

void FaultyFileSystem::set_contents(const std::string& path, std::span<const std::byte> bytes) {
  const std::lock_guard lock(disk_->mutex);
  auto& node = disk_->nodes[normal_path(path)];
  if (!node) node = std::make_shared<Node>();
  disk_->synced_nodes[normal_path(path)] = node;
  node->file.truncate(0);
  node->file.write(0, bytes);
  node->file.sync();
}

Result<std::unique_ptr<File>> FaultyFileSystem::open(const std::string& path, OpenMode mode) {
  const auto [lock, status] = disk_->begin(FileOperation::Open, path);
  if (!status.ok()) return status;
  const auto refuse = [&](int number) { return Disk::error(FileOperation::Open, path, number); };
  const std::string normal = normal_path(path);
  auto node = disk_->find(normal);
  if (mode == OpenMode::CreateNew && node) return refuse(EEXIST);
  if (mode != OpenMode::CreateNew && !node) return refuse(ENOENT);
  if (node && node->is_directory) return refuse(EISDIR);
  if (mode != OpenMode::Read && disk_->faults.read_only) return refuse(EROFS);
  if (!node) {
    if (!disk_->has_directory(directory_of(normal))) return refuse(ENOENT);
    node = disk_->nodes[normal] = std::make_shared<Node>();
  }
  return std::unique_ptr<File>(std::make_unique<OpenFile>(disk_, path, node, mode != OpenMode::Read));
}

void FaultyFileSystem::read(std::span<FileRead> reads) {
  for (FileRead& read : reads) read.status = static_cast<const OpenFile*>(read.file)->read(read.offset, read.bytes);
}

Status FaultyFileSystem::remove(const std::string& path) {
  const auto [lock, status] = disk_->begin(FileOperation::Remove, path);
  TIERCEL_RETURN_IF_ERROR(status);
  const std::string normal = normal_path(path);
  const auto node = disk_->find(normal);
  if (!node) return Disk::error(FileOperation::Remove, path, ENOENT);
  if (node->is_directory) return Disk::error(FileOperation::Remove, path, EISDIR);
  if (disk_->faults.read_only) return Disk::error(FileOperation::Remove, path, EROFS);
  disk_->nodes.erase(normal);
  return {};
}

Result<std::vector<std::string>> FaultyFileSystem::list(const std::string& directory) {
  const auto [lock, status] = disk_->begin(FileOperation::List, directory);
  if (!status.ok()) return status;
  const std::string normal = normal_path(directory);
  if (!disk_->has_directory(normal)) return Disk::error(FileOperation::List, directory, ENOENT);
  std::vector<std::string> names;
  for (const auto& [path, node] : disk_->nodes) {
    if (path != "/" && directory_of(path) == normal) names.push_back(std::filesystem::path(path).filename().string());
  }
  std::shuffle(names.begin(), names.end(), disk_->random);
  return names;
}

Status FaultyFileSystem::make_directory(const std::string& directory) {
  const auto [lock, status] = disk_->begin(FileOperation::MakeDirectory, directory);
  TIERCEL_RETURN_IF_ERROR(status);
  const auto refuse = [&](int number) { return Disk::error(FileOperation::MakeDirectory, directory, number); };
  const std::string normal = normal_path(directory);
  if (const auto node = disk_->find(normal)) return node->is_directory ? Status() : refuse(EEXIST);
  if (!disk_->has_directory(directory_of(normal))) return refuse(ENOENT);
  if (disk_->faults.read_only) return refuse(EROFS);
  disk_->nodes[normal] = std::make_shared<Node>(Node{.is_directory = true});
  return {};
}

Status FaultyFileSystem::sync_directory(const std::string& directory) {
  const auto [lock, status] = disk_->begin(FileOperation::SyncDirectory, directory);
  TIERCEL_RETURN_IF_ERROR(status);
  const std::string normal = normal_path(directory);
  if (!disk_->has_directory(normal)) return Disk::error(FileOperation::SyncDirectory, directory, ENOENT);
  const auto is_within = [&](const auto& entry) { return entry.first != "/" && directory_of(entry.first) == normal; };
  std::erase_if(disk_->synced_nodes, is_within);
  for (const auto& entry : disk_->nodes) {
    if (is_within(entry)) disk_->synced_nodes.insert(entry);
  }
  return {};
}

Result<std::unique_ptr<FileLock>> FaultyFileSystem::lock(const std::string& path) {
  const auto [lock, status] = disk_->begin(FileOperation::Lock, path);
  if (!status.ok()) return status;
  const std::string normal = normal_path(path);
  if (disk_->faults.read_only) return Disk::error(FileOperation::Lock, path, EROFS);
  if (!disk_->has_directory(directory_of(normal))) return Disk::error(FileOperation::Lock, path, ENOENT);
  if (!disk_->locked.insert(normal).second) return Status::rejected(path + " is locked");
  auto& node = disk_->nodes[normal];
  if (!node) node = std::make_shared<Node>();
  return std::unique_ptr<FileLock>(std::make_unique<HeldLock>(disk_, normal));
}

bool FaultyFileSystem::is_locked(const std::string& path) {
  const std::lock_guard lock(disk_->mutex);
  return disk_->locked.contains(normal_path(path));
}

}  // namespace tiercel
