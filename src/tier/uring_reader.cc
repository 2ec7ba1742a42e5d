#include "tier/piece_reader.h"

#ifdef TIERCEL_HAVE_URING

#include <liburing.h>

#include <cerrno>
#include <mutex>
#include <vector>

namespace tiercel {
namespace {

constexpr std::size_t kDepth = 32;  // pieces in flight

class UringReader final : public PieceReader {
 public:
  UringReader() : open_(io_uring_queue_init(kDepth, &ring_, 0) == 0) {}
  ~UringReader() override { close(); }

  bool is_open() const { return open_; }

  void read(std::span<ReadPiece* const> pieces) override {
    const std::lock_guard lock(mutex_);
    // The next one last. Allocates here only: nothing may throw while the kernel writes to the caller's memory.
    std::vector<ReadPiece*> waiting(pieces.rbegin(), pieces.rend());
    std::size_t queued = 0, in_flight = 0;
    while (open_ && !(waiting.empty() && queued + in_flight == 0)) {
      for (; !waiting.empty() && queued + in_flight < kDepth; ++queued, waiting.pop_back()) queue(*waiting.back());
      const int submitted = io_uring_submit_and_wait(&ring_, 1);
      if (submitted >= 0) {
        queued -= static_cast<std::size_t>(submitted);
        in_flight += static_cast<std::size_t>(submitted);
      } else if (submitted != -EINTR) {
        // Too much in flight for the system, perhaps: go on when some of it is done. Nothing is: it will not work.
        if (in_flight == 0) close();
        io_uring_cqe* completed = nullptr;
        if (open_) io_uring_wait_cqe(&ring_, &completed);
      }
      if (open_) in_flight -= take_completed(waiting);
    }
    for (ReadPiece* piece : pieces) {
      while (!piece->is_complete()) piece->take(piece->read_once());
    }
  }

 private:
  void queue(ReadPiece& piece) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    const auto buffers = piece.buffers();
    io_uring_prep_readv(entry, piece.descriptor(), buffers.data(), static_cast<unsigned>(buffers.size()),
                        piece.offset());
    io_uring_sqe_set_data(entry, &piece);
  }

  // What stopped early waits again. Returns how many came back.
  std::size_t take_completed(std::vector<ReadPiece*>& waiting) {
    std::size_t count = 0;
    for (io_uring_cqe* completed = nullptr; io_uring_peek_cqe(&ring_, &completed) == 0; ++count) {
      auto& piece = *static_cast<ReadPiece*>(io_uring_cqe_get_data(completed));
      const int result = completed->res;
      io_uring_cqe_seen(&ring_, completed);
      piece.take(result == -EAGAIN ? piece.read_once() : result);  // EAGAIN: it would have to wait, and cannot
      if (!piece.is_complete()) waiting.push_back(&piece);
    }
    return count;
  }

  void close() {
    if (open_) io_uring_queue_exit(&ring_);
    open_ = false;
  }

  std::mutex mutex_;  // guards all below
  io_uring ring_{};
  bool open_;
};

}  // namespace

std::unique_ptr<PieceReader> uring_reader() {
  auto reader = std::make_unique<UringReader>();
  if (!reader->is_open()) return nullptr;
  return reader;
}

}  // namespace tiercel

#else

namespace tiercel {

std::unique_ptr<PieceReader> uring_reader() { return nullptr; }

}  // namespace tiercel

#endif
