#include "ranks/tcp_communicator.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "ranks/peer_communicator.h"
#include "ranks/rendezvous.h"
#include "ranks/socket.h"

namespace tiercel {
namespace {

// Before each message: its size, and what it is part of.
using Label = std::uint64_t;
constexpr int kMeaningBits = 3;

class TcpCommunicator final : public PeerCommunicator {
 public:
  TcpCommunicator(const CommunicatorOptions& options, std::vector<Socket> sockets)
      : PeerCommunicator(options), sockets_(std::move(sockets)) {
    ways_.reserve(2 * sockets_.size());
    polled_.reserve(2 * sockets_.size());
  }

  void abort() override {
    static_cast<void>(fail(Status::cancelled(fmt::format("rank {} ended its operations", rank()))));
    disconnect();
  }

 private:
  // One part of an operation, as far as it has come.
  struct Way {
    Part part;
    bool is_sent;
    Label label = 0;
    std::size_t moved = 0;  // bytes, those of the label among them

    bool is_through() const { return moved == sizeof label + part.bytes; }
  };

  Status transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) override;
  // Moves what can be moved now.
  Status advance(Way& way, Label expected) const;
  // Until one of those that are not through can be moved. False: not by then.
  bool wait_for_some(Deadline deadline);
  void disconnect() const {
    for_each_peer([&](std::uint32_t peer) { sockets_[peer].shut_down(); });
  }

  const std::vector<Socket> sockets_;  // by rank
  std::vector<Way> ways_;
  std::vector<pollfd> polled_;
};

Status TcpCommunicator::advance(Way& way, Label expected) const {
  while (!way.is_through()) {
    const std::size_t of_label = std::min(way.moved, sizeof way.label), of_data = way.moved - of_label;
    std::array<iovec, 2> places = {
        iovec{reinterpret_cast<std::byte*>(&way.label) + of_label, sizeof way.label - of_label},
        iovec{static_cast<std::byte*>(way.part.data) + of_data, way.part.bytes - of_data}};
    msghdr message = {};
    message.msg_iov = places.data();
    // Where a message goes is known only when its label is right.
    message.msg_iovlen = way.is_sent || of_label == sizeof way.label ? 2 : 1;
    const int socket = sockets_[way.part.peer].descriptor();
    const ssize_t count = way.is_sent ? ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
                                      : ::recvmsg(socket, &message, MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (count <= 0) {
      return Status::unavailable(fmt::format("rank {} is gone, seen by rank {}: {}", way.part.peer, rank(),
                                             count == 0 ? "connection closed" : std::strerror(errno)));
    }
    way.moved += static_cast<std::size_t>(count);
    if (!way.is_sent && way.moved == sizeof way.label && way.label != expected) {
      const auto describe = [](Label label) {
        return fmt::format("{} of {} bytes", name_of(static_cast<Meaning>(label & ((1 << kMeaningBits) - 1))),
                           label >> kMeaningBits);
      };
      return Status::internal(fmt::format("rank {} is in {}, rank {} in {}", rank(), describe(expected), way.part.peer,
                                          describe(way.label)));
    }
  }
  return {};
}

bool TcpCommunicator::wait_for_some(Deadline deadline) {
  polled_.clear();
  for (const Way& way : ways_) {
    if (way.is_through()) continue;
    polled_.push_back({sockets_[way.part.peer].descriptor(), static_cast<short>(way.is_sent ? POLLOUT : POLLIN), 0});
  }
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - RankClock::now()).count();
    if (left <= 0) return false;
    const int ready = ::poll(polled_.data(), polled_.size(), static_cast<int>(std::min<std::int64_t>(left, 1 << 30)));
    if (ready != 0) return true;  // an error shows when it is moved
  }
}

Status TcpCommunicator::transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) {
  const Deadline deadline = RankClock::now() + timeout();
  const auto label_of = [&](const Part& part) {
    return Label{part.bytes} << kMeaningBits | static_cast<Label>(meaning);
  };
  ways_.clear();
  for (const Part& part : sent) ways_.push_back({.part = part, .is_sent = true, .label = label_of(part)});
  for (const Part& part : received) ways_.push_back({.part = part, .is_sent = false});
  Status status;
  while (status.ok()) {
    for (Way& way : ways_) {
      if (status.ok()) status = advance(way, label_of(way.part));
    }
    const auto late = std::ranges::find_if(ways_, [](const Way& way) { return !way.is_through(); });
    if (!status.ok() || late == ways_.end()) break;
    if (!wait_for_some(deadline)) {
      status = Status::deadline_exceeded(fmt::format("rank {} did not come to {} within {} ms, seen by rank {}",
                                                     late->part.peer, name_of(meaning), timeout().count(), rank()));
    }
  }
  if (status.ok()) return failure();  // abort() may have come meanwhile
  status = fail(std::move(status));
  disconnect();
  return status;
}

// Each rank listens for those of a higher number. What they say first is their own number.
Result<std::vector<Socket>> connect_all(const CommunicatorOptions& options, Rendezvous& rendezvous) {
  const auto listener =
      Socket::listen_at({.host = rendezvous.local_host(), .port = "0"}, static_cast<int>(options.size));
  if (!listener.ok()) return listener.status();
  const auto addresses = rendezvous.exchange(listener->local_address().text());
  if (!addresses.ok()) return addresses.status();
  const Deadline deadline = rendezvous.deadline();
  std::vector<Socket> sockets(options.size);
  for (std::uint32_t peer = 0; peer < options.rank; ++peer) {
    const auto address = parse_address((*addresses)[peer]);
    if (!address.ok()) return address.status();
    auto socket = Socket::connect_to(*address, deadline);
    if (!socket.ok()) return socket.status();
    TIERCEL_RETURN_IF_ERROR(socket->send_frame(std::to_string(options.rank), deadline));
    sockets[peer] = *std::move(socket);
  }
  for (std::uint32_t missing = options.size - options.rank - 1; missing > 0;) {
    auto socket = listener->accept(deadline);
    if (!socket.ok()) {
      return Status::deadline_exceeded(fmt::format("{} ranks did not connect to rank {}", missing, options.rank));
    }
    constexpr std::chrono::seconds kGreetingTime{2};
    const auto greeting = socket->receive_frame(std::min(deadline, RankClock::now() + kGreetingTime));
    std::uint32_t peer = 0;
    if (!greeting.ok()) continue;  // no rank of ours
    std::from_chars(greeting->data(), greeting->data() + greeting->size(), peer);
    if (peer <= options.rank || peer >= options.size || sockets[peer].is_open()) continue;
    sockets[peer] = *std::move(socket);
    --missing;
  }
  return sockets;
}

}  // namespace

Result<std::unique_ptr<Communicator>> open_tcp_communicator(const CommunicatorOptions& options) {
  auto rendezvous = Rendezvous::open(options);
  if (!rendezvous.ok()) return rendezvous.status();
  auto sockets = connect_all(options, *rendezvous);
  if (!sockets.ok()) return sockets.status();
  return std::unique_ptr<Communicator>(std::make_unique<TcpCommunicator>(options, *std::move(sockets)));
}

}  // namespace tiercel
