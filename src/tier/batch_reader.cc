#include "tier/batch_reader.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/thread_team.h"
#include "tier/cached_read.h"
#include "tier/piece_reader.h"

namespace tiercel {
namespace {

// One core does not get all of what memory gives, two do: see file_bench.
std::size_t copy_threads() { return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 2); }

}  // namespace

BatchReader::BatchReader(Method method) : copy_team_(std::make_unique<ThreadTeam>(copy_threads())) {
  if (method == Method::Fastest) piece_reader_ = uring_reader();
  uses_uring_ = piece_reader_ != nullptr;
  if (!uses_uring_) piece_reader_ = thread_reader();
}

BatchReader::~BatchReader() = default;

void BatchReader::copy_cached(std::span<ReadPiece> pieces) {
  const std::unique_lock lock(copying_, std::try_to_lock);
  if (lock.owns_lock()) {
    copy_team_->run(pieces.size(), [&](std::size_t i, std::size_t) { read_cached(pieces[i]); });
  } else {
    for (ReadPiece& piece : pieces) read_cached(piece);
  }
}

void BatchReader::read(std::span<BatchRead> reads) {
  ReadPieces pieces(reads);
  std::vector<ReadPiece*> left;
  left.reserve(pieces.all().size());
  copy_cached(pieces.all());
  for (ReadPiece& piece : pieces.all()) {
    if (!piece.is_complete()) left.push_back(&piece);
  }
  if (!left.empty()) piece_reader_->read(left);
  for (const ReadPiece& piece : pieces.all()) piece.report(reads);
}

}  // namespace tiercel
