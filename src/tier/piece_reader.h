// How pieces are read that are not in the page cache: many at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "tier/read_piece.h"

namespace tiercel {

class PieceReader {
 public:
  virtual ~PieceReader() = default;
  // Completes all of them. Thread-safety: any thread; calls wait for each other.
  virtual void read(std::span<ReadPiece* const> pieces) = 0;
};

// Null where the build has no liburing, or the kernel or its rules for this process refuse it.
std::unique_ptr<PieceReader> uring_reader();
std::unique_ptr<PieceReader> thread_reader();

}  // namespace tiercel
