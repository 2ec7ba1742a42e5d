// Many reads of files at once, as fast as memory and disk allow.
//
// Reads that follow each other in the list and in the file become one; long ones are cut into pieces. A piece that is
// in the page cache is copied from there. All others are in flight together, past the page cache where alignment
// allows: what the disk tier reads back goes to memory of the cache's own, and would only push other pages out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "tiercel/status.h"

namespace tiercel {

class PieceReader;
class ReadPiece;
class ThreadTeam;

struct BatchRead {
  int buffered_descriptor = -1;
  int direct_descriptor = -1;  // of the same file with O_DIRECT; -1: none
  // With `bytes`, all multiples of kDirectAlignment: else the direct descriptor is not used.
  std::uint64_t offset = 0;
  std::span<std::byte> bytes;
  // Out. Ok: all bytes were read. NotFound: the file ends before. Unavailable: what the system said, of these bytes or
  // of neighbours that were read in one operation with them.
  Status status = {};
};

// Thread-safety: read() may be called from any thread and by several at once; what is not in the page cache is read for
// one call after the other. Throws std::bad_alloc only, when nothing is in flight; the constructor also throws what
// std::thread does.
class BatchReader {
 public:
  enum class Method : std::uint8_t {
    Fastest,  // io_uring where the kernel has it and allows it, else threads
    Threads,
  };

  explicit BatchReader(Method method = Method::Fastest);
  ~BatchReader();
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  // Returns when all are done.
  void read(std::span<BatchRead> reads);
  bool uses_uring() const { return uses_uring_; }

 private:
  void copy_cached(std::span<ReadPiece> pieces);

  std::unique_ptr<PieceReader> piece_reader_;
  bool uses_uring_ = false;
  std::mutex copying_;  // held while the team copies
  std::unique_ptr<ThreadTeam> copy_team_;
};

}  // namespace tiercel
