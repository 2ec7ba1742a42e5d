#include "base/page_memory.h"

#include <sys/mman.h>

#include <cassert>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace tiercel {

Result<PageMemory> PageMemory::reserve(std::size_t bytes) {
  // mmap starts at a page, which is 4096 bytes or a multiple of it on every system Linux runs on.
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, /*fd=*/-1,
                     /*offset=*/0);
  if (start == MAP_FAILED) {
    return Status::unavailable(
        fmt::format("the system does not reserve {} bytes: {}", bytes, std::generic_category().message(errno)));
  }
  static_cast<void>(madvise(start, bytes, MADV_HUGEPAGE));  // a wish, not a need
  PageMemory memory;
  memory.start_ = static_cast<std::byte*>(start);
  memory.bytes_ = bytes;
  return memory;
}

bool PageMemory::populate(std::size_t offset, std::size_t bytes) const {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;  // Linux 5.14, which may be newer than the headers
#endif
  constexpr std::size_t kPage = 4096;  // where pages are larger, the system refuses what is not at one
  assert(offset <= bytes_ && bytes <= bytes_ - offset);
  const std::size_t first = offset / kPage * kPage;
  return madvise(start_ + first, offset + bytes - first, MADV_POPULATE_WRITE) == 0;
}

PageMemory::PageMemory(PageMemory&& other) noexcept
    : start_(std::exchange(other.start_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(start_, other.start_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PageMemory::~PageMemory() {
  if (start_ != nullptr) munmap(start_, bytes_);
}

}  // namespace tiercel
