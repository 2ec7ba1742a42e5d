#include "tier/cached_read.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

namespace tiercel {
namespace {

// cachestat(2), of Linux 6.5: the C library does not know it yet. The number is the same on all processors.
constexpr long kCachestat = 451;
struct CachestatRange {
  std::uint64_t offset = 0, size = 0;
};
struct CachestatCounts {
  std::uint64_t cached = 0, dirty = 0, in_writeback = 0, evicted = 0, recently_evicted = 0;  // in pages
};

// Nothing where the system does not tell.
std::optional<bool> is_cached(int descriptor, std::uint64_t offset, std::size_t size) {
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  CachestatRange range{offset, size};
  CachestatCounts counts;
  if (::syscall(kCachestat, descriptor, &range, &counts, 0) != 0) return std::nullopt;
  return counts.cached >= (offset + size - 1) / page_bytes - offset / page_bytes + 1;
}

// Whether one byte can be read without waiting.
bool has_cached_byte(int descriptor, std::uint64_t offset) {
  std::byte byte{};
  const iovec buffer{&byte, 1};
  return ::preadv2(descriptor, &buffer, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
}

}  // namespace

void read_cached(ReadPiece& piece) {
  // A read that must not wait still makes the kernel read ahead what it lacks. The disk would then give it twice, so
  // it is asked for only where it is likely there. At the end of a piece rather than at its beginning: envelopes are
  // read alone, too.
  const int descriptor = piece.buffered_descriptor();
  const std::size_t size = piece.remaining_bytes();
  const auto cached = is_cached(descriptor, piece.offset(), size);
  if (!(cached ? *cached : has_cached_byte(descriptor, piece.offset() + size - 1))) return;
  const auto buffers = piece.buffers();
  const ssize_t result = ::preadv2(descriptor, buffers.data(), static_cast<int>(buffers.size()),
                                   static_cast<off_t>(piece.offset()), RWF_NOWAIT);
  if (result > 0) piece.take(result);
}

}  // namespace tiercel
