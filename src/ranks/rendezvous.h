// Where ranks find each other: rank 0 listens at one address, the others connect to it over TCP, and everybody gets the
// bytes that everybody gave. Not a channel for more: it ends when they know each other.
//
// Nothing is secret or signed here. It is for networks whose members may be trusted.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ranks/communicator.h"
#include "tiercel/status.h"

namespace tiercel {

// "host:port" or "[host]:port". InvalidArgument where it is neither.
Result<std::pair<std::string, std::string>> split_address(std::string_view address);

class Rendezvous {
 public:
  // Waits until all ranks are there, for options.open_timeout_ms at most.
  //   InvalidArgument    an address that is none; a size or rank that does not fit those of the others
  //   Unavailable        rank 0 cannot listen there; the address has no such host
  //   DeadlineExceeded   somebody did not come; says who
  static Result<Rendezvous> open(const CommunicatorOptions& options);

  // This machine's numeric address on the way to the other ranks.
  const std::string& local_address() const { return local_address_; }
  // What each rank gave, in the order of ranks. Once, by all ranks, in what is left of the time.
  Result<std::vector<std::string>> exchange(std::string_view mine);

  Rendezvous(Rendezvous&&) noexcept = default;
  Rendezvous& operator=(Rendezvous&&) noexcept = default;

 private:
  using Clock = std::chrono::steady_clock;

  class Socket {
   public:
    explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
    Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
      std::swap(descriptor_, other.descriptor_);
      return *this;
    }
    ~Socket();
    int get() const { return descriptor_; }
    bool is_open() const { return descriptor_ >= 0; }

   private:
    int descriptor_;
  };

  explicit Rendezvous(const CommunicatorOptions& options);
  Status listen_for_others(const std::string& host, const std::string& port);
  Status connect_to_first(const std::string& host, const std::string& port);
  bool is_here(std::uint32_t rank) const;
  // What a newcomer says of itself, read from `socket`; its rank is taken where that fits.
  void welcome(Socket socket);
  Status too_late() const;

  static Status send_frame(const Socket& socket, std::string_view bytes, Clock::time_point deadline);
  static Result<std::string> receive_frame(const Socket& socket, Clock::time_point deadline);

  std::string address_;
  std::uint32_t rank_, size_;
  std::uint64_t open_timeout_ms_;
  Clock::time_point deadline_;
  std::string local_address_;
  std::vector<Socket> peers_;  // rank 0: of each other rank; the others: of rank 0 alone
};

}  // namespace tiercel
