// A part of a batch of reads that is one vectored operation of the system, or several where that stops early.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tier/batch_reader.h"

namespace tiercel {

// From about here on, a read with O_DIRECT is as fast as longer ones, and several in flight fill what a disk can give.
inline constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

class ReadPiece {
 public:
  // Starts empty; `buffers` is where its first one will be.
  ReadPiece(const BatchRead& read, std::uint64_t offset, std::size_t first_read, iovec* buffers);

  // Whether `bytes` of `read`, at `offset` of the file, can be added behind what is there.
  bool continues_with(const BatchRead& read, std::uint64_t offset, const std::byte* bytes) const;
  // How many of `bytes` were added. The buffer behind the last one is free to use.
  std::size_t add(std::span<std::byte> bytes, std::size_t read);

  // Until it is complete, do preadv(descriptor(), buffers(), offset()) and call take() with its result or -errno.
  bool is_complete() const { return done_bytes_ == size_bytes_ || ended_ || error_ != 0; }
  int descriptor() const { return direct_ ? direct_descriptor_ : buffered_descriptor_; }
  int buffered_descriptor() const { return buffered_descriptor_; }
  std::span<iovec> buffers() { return {buffers_, buffer_count_}; }
  std::uint64_t offset() const { return offset_ + done_bytes_; }
  std::size_t remaining_bytes() const { return size_bytes_ - done_bytes_; }
  void take(ssize_t result);
  // What preadv returns, or -errno.
  ssize_t read_once();

  // Tells the reads that it did not fill what became of them.
  void report(std::span<BatchRead> reads) const;

 private:
  int buffered_descriptor_;
  int direct_descriptor_;
  bool direct_;  // past the page cache
  bool ended_ = false;
  int error_ = 0;
  std::uint64_t offset_;
  std::size_t size_bytes_ = 0;
  std::size_t done_bytes_ = 0;
  iovec* buffers_;  // of what is to be read yet
  std::size_t buffer_count_ = 0;
  std::size_t first_read_, last_read_;  // inclusive
};

// The pieces of a batch, and the memory they point to.
class ReadPieces {
 public:
  explicit ReadPieces(std::span<BatchRead> reads);
  std::span<ReadPiece> all() { return pieces_; }

 private:
  std::vector<iovec> buffers_;
  std::vector<ReadPiece> pieces_;
};

}  // namespace tiercel
