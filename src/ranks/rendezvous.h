// Where ranks find each other: rank 0 listens at one address, the others connect to it over TCP, and everybody gets the
// bytes that everybody gave. Not a channel for more: it ends when they know each other.
//
// Nothing is secret or signed here. It is for networks whose members may be trusted.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ranks/communicator.h"
#include "ranks/socket.h"
#include "tiercel/status.h"

namespace tiercel {

class Rendezvous {
 public:
  // Waits until all ranks are there, for options.open_timeout_ms at most.
  //   InvalidArgument    an address that is none; a size or rank that does not fit those of the others
  //   Unavailable        rank 0 cannot listen there; the address has no such host
  //   DeadlineExceeded   somebody did not come; says who
  static Result<Rendezvous> open(const CommunicatorOptions& options);

  // This machine's numeric address on the way to the other ranks.
  const std::string& local_host() const { return local_host_; }
  // When opening must be through.
  Deadline deadline() const { return deadline_; }
  // What each rank gave, in the order of ranks. Once, by all ranks, in what is left of the time.
  Result<std::vector<std::string>> exchange(std::string_view mine);

 private:
  explicit Rendezvous(const CommunicatorOptions& options);
  Status wait_for_others(const HostPort& address);
  // What a newcomer says of itself; it gets its place where that fits.
  void welcome(Socket newcomer);
  bool is_here(std::uint32_t rank) const { return peers_[rank].is_open() && !peers_[rank].has_left(); }
  Status come_to_first(const HostPort& address);

  CommunicatorOptions options_;
  Deadline deadline_;
  std::string local_host_;
  std::vector<Socket> peers_;  // rank 0: of each other rank; the others: of rank 0 alone
};

}  // namespace tiercel
