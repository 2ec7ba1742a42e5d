#include "kv/block_arena.h"

#include <sys/mman.h>

#include <cassert>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace tiercel {

Result<BlockArena> BlockArena::reserve(std::size_t blocks, std::size_t block_bytes) {
  assert(blocks > 0 && block_bytes > 0);
  const std::size_t stride = stride_of(block_bytes);
  std::size_t bytes = 0;
  if (stride == 0 || __builtin_mul_overflow(blocks, stride, &bytes)) {
    return Status::unavailable(fmt::format("{} KV blocks of {} bytes exceed the address space", blocks, block_bytes));
  }
  // mmap starts at a page, which is 4096 bytes or a multiple of it on every system Linux runs on.
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, /*fd=*/-1,
                     /*offset=*/0);
  if (start == MAP_FAILED) {
    return Status::unavailable(fmt::format("the system does not reserve {} bytes for the KV arena: {}", bytes,
                                           std::generic_category().message(errno)));
  }
  // Fewer faults when blocks are first written, fewer translations when they are read. A wish, not a need.
  static_cast<void>(madvise(start, bytes, MADV_HUGEPAGE));
  BlockArena arena;
  arena.start_ = static_cast<std::byte*>(start);
  arena.mapped_bytes_ = bytes;
  arena.stride_ = stride;
  return arena;
}

BlockArena::BlockArena(BlockArena&& other) noexcept
    : start_(std::exchange(other.start_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      stride_(other.stride_) {}

BlockArena& BlockArena::operator=(BlockArena&& other) noexcept {
  std::swap(start_, other.start_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(stride_, other.stride_);
  return *this;
}

BlockArena::~BlockArena() {
  if (start_ != nullptr) munmap(start_, mapped_bytes_);
}

std::byte* BlockArena::block(BlockId id) const {
  assert((std::size_t{id} + 1) * stride_ <= mapped_bytes_);
  return start_ + id * stride_;
}

}  // namespace tiercel
