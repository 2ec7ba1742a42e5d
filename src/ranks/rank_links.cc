#include "ranks/rank_links.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <random>

#include <fmt/format.h>

namespace tiercel {
namespace {

// Where rank 0 listens, and what a rank says there so that it is known from strangers.
struct Invitation {
  std::uint64_t token;
  std::uint32_t port;
};
struct Greeting {
  std::uint64_t token;
  std::uint32_t rank, index;
};
// Who connects and says nothing is no rank.
constexpr std::chrono::seconds kGreetingTime{2};

using Links = std::vector<std::vector<Socket>>;

// Nobody's, where it says none in time.
Greeting receive_greeting(const Socket& newcomer, Deadline deadline) {
  Greeting greeting = {};
  const auto said = newcomer.receive_frame(std::min(deadline, RankClock::now() + kGreetingTime));
  if (said.ok() && said->size() == sizeof greeting) std::memcpy(&greeting, said->data(), sizeof greeting);
  return greeting;
}

Result<Links> accept_links(Communicator& communicator, const HostPort& address, std::size_t count, Deadline deadline) {
  const std::size_t others = communicator.size() - 1;
  const auto listener = Socket::listen_at({.host = address.host, .port = "0"}, static_cast<int>(others * count));
  if (!listener.ok()) return listener.status();
  const std::string port = listener->local_address().port;
  Invitation invitation{.token = std::random_device()() | std::uint64_t{std::random_device()()} << 32, .port = 0};
  std::from_chars(port.data(), port.data() + port.size(), invitation.port);
  TIERCEL_RETURN_IF_ERROR(communicator.broadcast(&invitation, sizeof invitation, 0));
  Links links(others);
  for (auto& of_rank : links) of_rank.resize(count);
  for (std::size_t missing = others * count; missing > 0;) {
    auto newcomer = listener->accept(deadline);
    if (!newcomer.ok()) return Status::deadline_exceeded(fmt::format("{} links of ranks did not come", missing));
    const Greeting greeting = receive_greeting(*newcomer, deadline);
    const bool is_ours = greeting.token == invitation.token && greeting.rank > 0 && greeting.rank <= others;
    if (!is_ours || greeting.index >= count) continue;
    Socket& place = links[greeting.rank - 1][greeting.index];
    if (place.is_open()) continue;
    place = *std::move(newcomer);
    --missing;
  }
  return links;
}

Result<Links> open_links(Communicator& communicator, const HostPort& address, std::size_t count, Deadline deadline) {
  Invitation invitation;
  TIERCEL_RETURN_IF_ERROR(communicator.broadcast(&invitation, sizeof invitation, 0));
  const HostPort first{.host = address.host, .port = std::to_string(invitation.port)};
  Links links(1);
  for (std::uint32_t index = 0; index < count; ++index) {
    auto socket = Socket::connect_to(first, deadline);
    if (!socket.ok()) return socket.status();
    const Greeting greeting{.token = invitation.token, .rank = communicator.rank(), .index = index};
    TIERCEL_RETURN_IF_ERROR(socket->send_frame({reinterpret_cast<const char*>(&greeting), sizeof greeting}, deadline));
    links[0].push_back(*std::move(socket));
  }
  return links;
}

}  // namespace

Result<Links> link_with_first(Communicator& communicator, const std::string& address, std::size_t count,
                              std::uint64_t timeout_ms) {
  const auto host_port = parse_address(address);
  if (!host_port.ok()) return host_port.status();
  const Deadline deadline = RankClock::now() + std::chrono::milliseconds(timeout_ms);
  return communicator.rank() == 0 ? accept_links(communicator, *host_port, count, deadline)
                                  : open_links(communicator, *host_port, count, deadline);
}

}  // namespace tiercel
