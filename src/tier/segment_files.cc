#include "tier/segment_files.h"

#include <algorithm>

#include "tier/disk_segment.h"

namespace tiercel::disk {

Result<std::shared_ptr<const File>> SegmentFiles::open(std::uint64_t number) {
  using Opened = std::pair<std::uint64_t, std::shared_ptr<const File>>;
  const std::lock_guard lock(mutex_);
  if (const auto known = std::ranges::find(open_, number, &Opened::first); known != open_.end()) {
    open_.splice(open_.begin(), open_, known);
    return open_.front().second;
  }
  auto opened = files_->open(segment_path(directory_, number), FileSystem::OpenMode::Read);
  if (!opened.ok()) return opened.status();
  std::shared_ptr<const File> file = *std::move(opened);
  open_.emplace_front(number, file);
  if (open_.size() > kMostOpen) open_.pop_back();
  return file;
}

void SegmentFiles::close(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  std::erase_if(open_, [&](const auto& opened) { return opened.first == number; });
}

}  // namespace tiercel::disk
