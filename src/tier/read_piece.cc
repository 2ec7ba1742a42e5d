#include "tier/read_piece.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "tier/file_system.h"

namespace tiercel {
namespace {

constexpr std::size_t kMaxBuffers = 1024;  // of one operation, by Linux

bool is_aligned(std::uint64_t number) { return number % kDirectAlignment == 0; }

bool can_be_direct(const BatchRead& read) {
  return read.direct_descriptor >= 0 && is_aligned(read.offset) && is_aligned(read.bytes.size()) &&
         is_aligned(reinterpret_cast<std::uintptr_t>(read.bytes.data()));
}

}  // namespace

ReadPiece::ReadPiece(const BatchRead& read, std::uint64_t offset, std::size_t first_read, iovec* buffers)
    : buffered_descriptor_(read.buffered_descriptor),
      direct_descriptor_(read.direct_descriptor),
      direct_(can_be_direct(read)),
      offset_(offset),
      buffers_(buffers),
      first_read_(first_read),
      last_read_(first_read) {}

bool ReadPiece::continues_with(const BatchRead& read, std::uint64_t offset, const std::byte* bytes) const {
  const bool one_buffer = buffer_count_ != 0 && static_cast<const std::byte*>(buffers_[buffer_count_ - 1].iov_base) +
                                                        buffers_[buffer_count_ - 1].iov_len ==
                                                    bytes;
  return read.buffered_descriptor == buffered_descriptor_ && read.direct_descriptor == direct_descriptor_ &&
         can_be_direct(read) == direct_ && offset == offset_ + size_bytes_ && size_bytes_ < kPieceBytes &&
         (one_buffer || buffer_count_ < kMaxBuffers);
}

std::size_t ReadPiece::add(std::span<std::byte> bytes, std::size_t read) {
  const std::size_t added = std::min(bytes.size(), kPieceBytes - size_bytes_);
  iovec* last = buffer_count_ == 0 ? nullptr : &buffers_[buffer_count_ - 1];
  if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == bytes.data()) {
    last->iov_len += added;
  } else {
    buffers_[buffer_count_++] = {bytes.data(), added};
  }
  size_bytes_ += added;
  last_read_ = read;
  return added;
}

void ReadPiece::take(ssize_t result) {
  if (result == -EINTR) return;
  if (result < 0) {
    // Some file systems take O_DIRECT and then want another alignment, or none of it.
    const bool refused = direct_ && (result == -EINVAL || result == -EOPNOTSUPP);
    if (refused) {
      direct_ = false;
    } else {
      error_ = static_cast<int>(-result);
    }
    return;
  }
  ended_ = result == 0;
  done_bytes_ += static_cast<std::size_t>(result);
  direct_ = direct_ && is_aligned(done_bytes_);  // not so where the file ends
  for (auto rest = static_cast<std::size_t>(result); rest > 0;) {
    const std::size_t taken = std::min(rest, buffers_->iov_len);
    *buffers_ = {static_cast<std::byte*>(buffers_->iov_base) + taken, buffers_->iov_len - taken};
    rest -= taken;
    if (buffers_->iov_len == 0) ++buffers_, --buffer_count_;
  }
}

ssize_t ReadPiece::read_once() {
  const ssize_t result =
      ::preadv(descriptor(), buffers_, static_cast<int>(buffer_count_), static_cast<off_t>(offset()));
  return result < 0 ? -errno : result;
}

void ReadPiece::report(std::span<BatchRead> reads) const {
  if (done_bytes_ == size_bytes_) return;
  for (BatchRead& read : reads.subspan(first_read_, last_read_ - first_read_ + 1)) {
    const bool filled = read.offset + read.bytes.size() <= offset_ + done_bytes_;
    if (filled || !read.status.ok()) continue;
    read.status = error_ == 0 ? Status::not_found("cannot read: the file ends before")
                              : Status::unavailable("cannot read: " + std::generic_category().message(error_));
  }
}

ReadPieces::ReadPieces(std::span<BatchRead> reads) {
  std::size_t most = 0;  // buffers: each read ends one, and each full piece
  for (const BatchRead& read : reads) most += read.bytes.size() / kPieceBytes + 2;
  buffers_.resize(most);  // never moves from here on
  std::size_t used = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    BatchRead& read = reads[i];
    read.status = {};
    for (std::size_t begin = 0; begin < read.bytes.size();) {
      const auto rest = read.bytes.subspan(begin);
      if (pieces_.empty() || !pieces_.back().continues_with(read, read.offset + begin, rest.data())) {
        if (!pieces_.empty()) used += pieces_.back().buffers().size();
        pieces_.emplace_back(read, read.offset + begin, i, buffers_.data() + used);
      }
      begin += pieces_.back().add(rest, i);
    }
  }
}

}  // namespace tiercel
