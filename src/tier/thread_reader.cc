#include <mutex>

#include "base/thread_team.h"
#include "tier/piece_reader.h"

namespace tiercel {
namespace {

constexpr std::size_t kThreads = 8;  // they wait for the disk, so the number of cores does not matter

class ThreadReader final : public PieceReader {
 public:
  void read(std::span<ReadPiece* const> pieces) override {
    const std::lock_guard lock(mutex_);
    team_.run(pieces.size(), [&](std::size_t i, std::size_t) {
      while (!pieces[i]->is_complete()) pieces[i]->take(pieces[i]->read_once());
    });
  }

 private:
  std::mutex mutex_;
  ThreadTeam team_{kThreads};
};

}  // namespace

std::unique_ptr<PieceReader> thread_reader() { return std::make_unique<ThreadReader>(); }

}  // namespace tiercel
