#include "ranks/rendezvous.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tiercel {
namespace {

using Clock = std::chrono::steady_clock;

// Begins what a newcomer says, and changes with what ranks say to each other afterwards.
constexpr std::string_view kGreeting = "tiercel ranks 1 ";
constexpr std::string_view kWelcome = "welcome";
constexpr std::size_t kLargestFrame = std::size_t{1} << 20;
// Who connects and says nothing is no rank.
constexpr std::chrono::seconds kGreetingTime{2};
constexpr std::chrono::milliseconds kConnectPause{50};

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> resolve(const std::string& host, const std::string& port, bool to_listen) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = to_listen ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return Status::unavailable(fmt::format("no address {}:{}: {}", host, port, ::gai_strerror(error)));
  }
  return AddressList(found, &::freeaddrinfo);
}

// False: not by then.
bool wait_for(int descriptor, short events, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd poll_entry{descriptor, events, 0};
    const int ready = ::poll(&poll_entry, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

std::string numeric_host(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST];
  return ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof host, nullptr, 0,
                       NI_NUMERICHOST) == 0
             ? std::string(host)
             : std::string();
}

// The other end is closed, with nothing left to read.
bool has_left(int descriptor) {
  char byte;
  const ssize_t count = ::recv(descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR);
}

std::string local_host(int descriptor) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return numeric_host(address, length);
}

}  // namespace

Result<std::pair<std::string, std::string>> split_address(std::string_view address) {
  const std::size_t colon = address.rfind(':');
  std::string_view host = address.substr(0, colon), port;
  if (colon != std::string_view::npos) port = address.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool is_port = !port.empty() && port.size() <= 5 && std::ranges::all_of(port, [](char c) {
    return c >= '0' && c <= '9';
  });
  if (host.empty() || !is_port || (!bracketed && host.find(':') != std::string_view::npos) ||
      std::stoul(std::string(port)) > 65535 || std::stoul(std::string(port)) == 0) {
    return Status::invalid_argument(
        fmt::format("'{}' is no address; give host:port of rank 0, such as 10.0.0.1:29500 or [::1]:29500", address));
  }
  return std::pair(std::string(host), std::string(port));
}

Rendezvous::Socket::~Socket() {
  if (is_open()) ::close(descriptor_);
}

Rendezvous::Rendezvous(const CommunicatorOptions& options)
    : address_(options.address),
      rank_(options.rank),
      size_(options.size),
      open_timeout_ms_(options.open_timeout_ms),
      deadline_(Clock::now() + std::chrono::milliseconds(options.open_timeout_ms)) {}

Result<Rendezvous> Rendezvous::open(const CommunicatorOptions& options) {
  if (options.rank >= options.size) {
    return Status::invalid_argument(
        fmt::format("rank is {} of {}; give 0 to {}", options.rank, options.size, options.size - 1));
  }
  const auto host_and_port = split_address(options.address);
  if (!host_and_port.ok()) return host_and_port.status();
  const auto& [host, port] = *host_and_port;
  Rendezvous rendezvous(options);
  TIERCEL_RETURN_IF_ERROR(options.rank == 0 ? rendezvous.listen_for_others(host, port)
                                            : rendezvous.connect_to_first(host, port));
  return rendezvous;
}

Status Rendezvous::listen_for_others(const std::string& host, const std::string& port) {
  auto addresses = resolve(host, port, /*to_listen=*/true);
  if (!addresses.ok()) return addresses.status();
  const addrinfo& address = **addresses;
  const Socket listener(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!listener.is_open() || ::bind(listener.get(), address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(listener.get(), static_cast<int>(size_)) != 0) {
    return Status::unavailable(fmt::format("rank 0 cannot listen at {}: {}", address_, std::strerror(errno)));
  }
  peers_.resize(size_);
  while (true) {
    std::vector<std::uint32_t> missing;
    for (std::uint32_t rank = 1; rank < size_; ++rank) {
      if (!is_here(rank)) missing.push_back(rank);
    }
    if (missing.empty()) break;
    if (!wait_for(listener.get(), POLLIN, deadline_)) {
      return Status::deadline_exceeded(fmt::format("rank {} did not come to {} within {} ms", fmt::join(missing, ", "),
                                                   address_, open_timeout_ms_));
    }
    Socket newcomer(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (newcomer.is_open()) welcome(std::move(newcomer));
  }
  local_address_ = size_ > 1 ? local_host(peers_[1].get()) : host;
  for (std::uint32_t rank = 1; rank < size_; ++rank) {
    TIERCEL_RETURN_IF_ERROR(send_frame(peers_[rank], kWelcome, deadline_));
  }
  return {};
}

bool Rendezvous::is_here(std::uint32_t rank) const {
  return peers_[rank].is_open() && !has_left(peers_[rank].get());
}

void Rendezvous::welcome(Socket socket) {
  const auto greeting = receive_frame(socket, std::min(deadline_, Clock::now() + kGreetingTime));
  if (!greeting.ok() || !greeting->starts_with(kGreeting)) return;  // no rank of ours
  unsigned rank = 0, size = 0;
  const bool understood = std::sscanf(greeting->c_str() + kGreeting.size(), "%u of %u", &rank, &size) == 2;
  std::string refusal;
  if (!understood || size != size_) {
    refusal = fmt::format("rank 0 counts {} ranks, and this one {}; give all the same number", size_, size);
  } else if (rank == 0 || rank >= size_) {
    refusal = fmt::format("rank is {}; give 1 to {}: rank 0 is there", rank, size_ - 1);
  } else if (is_here(rank)) {
    refusal = fmt::format("there is a rank {} already; give each another number", rank);
  }
  if (refusal.empty()) {
    peers_[rank] = std::move(socket);
  } else {
    static_cast<void>(send_frame(socket, refusal, deadline_));
  }
}

Status Rendezvous::connect_to_first(const std::string& host, const std::string& port) {
  auto addresses = resolve(host, port, /*to_listen=*/false);
  if (!addresses.ok()) return addresses.status();
  const addrinfo& address = **addresses;
  while (true) {
    Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int error = ::connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      socklen_t length = sizeof error;
      if (!wait_for(socket.get(), POLLOUT, deadline_)) return too_late();
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (error == 0) {
      TIERCEL_RETURN_IF_ERROR(send_frame(socket, fmt::format("{}{} of {}", kGreeting, rank_, size_), deadline_));
      // It comes when all are there. A rank 0 that ends meanwhile may begin anew.
      const auto answer = receive_frame(socket, deadline_);
      if (answer.ok() && *answer != kWelcome) return Status::invalid_argument(*answer);
      if (answer.ok()) {
        local_address_ = local_host(socket.get());
        peers_.push_back(std::move(socket));
        return {};
      }
    }
    if (Clock::now() + kConnectPause >= deadline_) return too_late();
    std::this_thread::sleep_for(kConnectPause);
  }
}

Status Rendezvous::too_late() const {
  return Status::deadline_exceeded(
      fmt::format("rank {} found no rank 0 with all others at {} within {} ms", rank_, address_, open_timeout_ms_));
}

Result<std::vector<std::string>> Rendezvous::exchange(std::string_view mine) {
  std::vector<std::string> all(size_);
  all[rank_] = mine;
  const bool is_first = rank_ == 0;
  const auto socket_of = [&](std::uint32_t rank) -> const Socket& { return is_first ? peers_[rank] : peers_.front(); };
  if (!is_first) TIERCEL_RETURN_IF_ERROR(send_frame(peers_.front(), mine, deadline_));
  for (std::uint32_t rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    auto frame = receive_frame(socket_of(rank), deadline_);
    if (!frame.ok()) return frame.status();
    all[rank] = std::move(*frame);
  }
  for (std::uint32_t to = 1; is_first && to < size_; ++to) {
    for (std::uint32_t rank = 0; rank < size_; ++rank) {
      if (rank != to) TIERCEL_RETURN_IF_ERROR(send_frame(peers_[to], all[rank], deadline_));
    }
  }
  return all;
}

Status Rendezvous::send_frame(const Socket& socket, std::string_view bytes, Clock::time_point deadline) {
  const auto length = static_cast<std::uint32_t>(bytes.size());
  std::string frame(reinterpret_cast<const char*>(&length), sizeof length);
  frame += bytes;
  for (std::size_t sent = 0; sent < frame.size();) {
    const ssize_t count = ::send(socket.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
    if (count >= 0) {
      sent += static_cast<std::size_t>(count);
    } else if (errno == EAGAIN || errno == EINTR) {
      if (!wait_for(socket.get(), POLLOUT, deadline)) return Status::deadline_exceeded("another rank takes nothing");
    } else {
      return Status::unavailable(fmt::format("another rank left while ranks met: {}", std::strerror(errno)));
    }
  }
  return {};
}

Result<std::string> Rendezvous::receive_frame(const Socket& socket, Clock::time_point deadline) {
  const auto receive = [&](char* data, std::size_t bytes) -> Status {
    for (std::size_t received = 0; received < bytes;) {
      const ssize_t count = ::recv(socket.get(), data + received, bytes - received, 0);
      if (count > 0) {
        received += static_cast<std::size_t>(count);
      } else if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (!wait_for(socket.get(), POLLIN, deadline)) return Status::deadline_exceeded("another rank says nothing");
      } else {
        return Status::unavailable("another rank left while ranks met");
      }
    }
    return {};
  };
  std::uint32_t length = 0;
  TIERCEL_RETURN_IF_ERROR(receive(reinterpret_cast<char*>(&length), sizeof length));
  if (length > kLargestFrame) return Status::unavailable("what came is not from a rank");
  std::string bytes(length, '\0');
  TIERCEL_RETURN_IF_ERROR(receive(bytes.data(), bytes.size()));
  return bytes;
}

}  // namespace tiercel
