// TCP as ranks use it: sockets that never block, calls that end at a deadline, and frames (a length, then so many
// bytes) for the little that is said before a communicator stands.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "tiercel/status.h"

namespace tiercel {

using RankClock = std::chrono::steady_clock;
using Deadline = RankClock::time_point;

// "host:port" or "[host]:port"
struct HostPort {
  std::string host, port;
  std::string text() const;
};
// InvalidArgument where it is neither.
Result<HostPort> parse_address(std::string_view address);

// Owns a descriptor; move-only.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();

  // Port 0: one that is free. Unavailable where that cannot be listened at.
  static Result<Socket> listen_at(const HostPort& address, int most_waiting);
  // One try. Unavailable: nobody listens there (yet); DeadlineExceeded.
  static Result<Socket> connect_to(const HostPort& address, Deadline deadline);
  // Of one that listens. DeadlineExceeded: nobody came.
  Result<Socket> accept(Deadline deadline) const;

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  // The other end is closed, and all it sent is read.
  bool has_left() const;
  // Numeric, of this end.
  HostPort local_address() const;
  // Both ends see the connection closed, and whoever waits at it wakes. Any thread.
  void shut_down() const;

  // Something came, or the other end is closed. False: not by then.
  bool wait_readable(Deadline deadline) const;
  // Unavailable: the other end is closed, or sends what is no frame.
  Status send_frame(std::string_view bytes, Deadline deadline) const;
  Result<std::string> receive_frame(Deadline deadline) const;

 private:
  int descriptor_ = -1;
};

}  // namespace tiercel
