// Communication in host memory, on top of one operation: every rank sends to and receives from some of the others at
// once. A transport (tcp_communicator.h, gloo_communicator.h) gives that; what ranks do with it is here, once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "ranks/communicator.h"

namespace tiercel {

class PeerCommunicator : public Communicator {
 public:
  std::uint32_t rank() const final { return rank_; }
  std::uint32_t size() const final { return size_; }

  Status all_reduce_sum(void* values, std::size_t count, Element element) final;
  Status all_gather(const void* mine, std::size_t bytes, void* all) final;
  Status broadcast(void* data, std::size_t bytes, std::uint32_t root) final;
  Status send(const void* data, std::size_t bytes, std::uint32_t to) final;
  Status receive(void* data, std::size_t bytes, std::uint32_t from) final;
  Status barrier() final;
  Result<std::unique_ptr<Communicator>> group(const std::vector<std::uint32_t>& ranks) final;

  void set_timeout_ms(std::uint64_t timeout_ms) override { timeout_ = std::chrono::milliseconds(timeout_ms); }
  Status wait() final { return failure(); }

 protected:
  explicit PeerCommunicator(const CommunicatorOptions& options)
      : rank_(options.rank), size_(options.size), timeout_(options.timeout_ms) {}

  // What a message is part of. An operation meets its like, of the same size, or nobody.
  enum class Meaning : std::uint8_t { Sum, Piece, SumOfPiece, Gather, Broadcast, Message, Barrier };
  static std::string_view name_of(Meaning meaning);
  struct Part {
    std::uint32_t peer;
    void* data;
    std::size_t bytes;  // at least 1
  };

  // Receives and sends all of these at once, at most one each way for each peer; returns when they are through, by the
  // deadline. Failure is final: it ends with fail().
  virtual Status transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) = 0;

  std::chrono::milliseconds timeout() const { return timeout_; }
  virtual Status failure() const;
  // Keeps the first failure and returns it.
  Status fail(Status status);
  template <class Each>
  void for_each_peer(const Each& each) const {
    for (std::uint32_t peer = 0; peer < size_; ++peer) {
      if (peer != rank_) each(peer);
    }
  }

 private:
  friend class PeerGroup;

  Status check_peer(std::uint32_t peer) const;
  Status check_other(std::uint32_t peer) const;
  // transfer() without what is empty.
  Status exchange(Meaning meaning, std::vector<Part> received, std::vector<Part> sent);

  const std::uint32_t rank_, size_;
  std::chrono::milliseconds timeout_;
  std::vector<std::byte> scratch_;  // what came from the others, to be added up

  mutable std::mutex mutex_;
  Status failure_;  // the first
};

}  // namespace tiercel
