#include "ranks/socket.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>

#include <fmt/format.h>

namespace tiercel {
namespace {

constexpr std::size_t kLargestFrame = std::size_t{1} << 20;

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> resolve(const HostPort& address, bool to_listen) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = to_listen ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found); error != 0) {
    return Status::unavailable(fmt::format("no address {}: {}", address.text(), ::gai_strerror(error)));
  }
  return AddressList(found, &::freeaddrinfo);
}

// False: not by then.
bool wait_for(int descriptor, short events, Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - RankClock::now()).count();
    if (left <= 0) return false;
    pollfd entry{descriptor, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

// Small messages go at once; a machine that vanished is noticed in the end, even where nothing is under way.
void tune(int descriptor) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

}  // namespace

std::string HostPort::text() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Result<HostPort> parse_address(std::string_view address) {
  const std::size_t colon = address.rfind(':');
  std::string_view host = address.substr(0, colon), port;
  if (colon != std::string_view::npos) port = address.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool is_number =
      !port.empty() && port.size() <= 5 && std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; });
  const unsigned long number = is_number ? std::stoul(std::string(port)) : 0;
  if (host.empty() || number == 0 || number > 65535 || (!bracketed && host.find(':') != std::string_view::npos)) {
    return Status::invalid_argument(
        fmt::format("'{}' is no address; give host:port of rank 0, such as 10.0.0.1:29500 or [::1]:29500", address));
  }
  return HostPort{std::string(host), std::string(port)};
}

Socket::~Socket() {
  if (is_open()) ::close(descriptor_);
}

Result<Socket> Socket::listen_at(const HostPort& address, int most_waiting) {
  auto addresses = resolve(address, /*to_listen=*/true);
  if (!addresses.ok()) return addresses.status();
  const addrinfo& first = **addresses;
  Socket listener(::socket(first.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  ::setsockopt(listener.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!listener.is_open() || ::bind(listener.descriptor(), first.ai_addr, first.ai_addrlen) != 0 ||
      ::listen(listener.descriptor(), most_waiting) != 0) {
    return Status::unavailable(fmt::format("cannot listen at {}: {}", address.text(), std::strerror(errno)));
  }
  return listener;
}

Result<Socket> Socket::connect_to(const HostPort& address, Deadline deadline) {
  auto addresses = resolve(address, /*to_listen=*/false);
  if (!addresses.ok()) return addresses.status();
  const addrinfo& first = **addresses;
  Socket socket(::socket(first.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int error = ::connect(socket.descriptor(), first.ai_addr, first.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    if (!wait_for(socket.descriptor(), POLLOUT, deadline)) {
      return Status::deadline_exceeded(fmt::format("{} does not answer", address.text()));
    }
    socklen_t length = sizeof error;
    ::getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error != 0) {
    return Status::unavailable(fmt::format("cannot connect to {}: {}", address.text(), std::strerror(error)));
  }
  tune(socket.descriptor());
  return socket;
}

Result<Socket> Socket::accept(Deadline deadline) const {
  while (wait_for(descriptor_, POLLIN, deadline)) {
    Socket newcomer(::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!newcomer.is_open()) continue;  // it left meanwhile
    tune(newcomer.descriptor());
    return newcomer;
  }
  return Status::deadline_exceeded("nobody came");
}

bool Socket::has_left() const {
  char byte;
  const ssize_t count = ::recv(descriptor_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return count == 0 || (count < 0 && !would_block(errno));
}

HostPort Socket::local_address() const {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  char host[NI_MAXHOST] = {}, port[NI_MAXSERV] = {};
  if (::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    ::getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV);
  }
  return {host, port};
}

bool Socket::wait_readable(Deadline deadline) const { return wait_for(descriptor_, POLLIN, deadline); }

void Socket::shut_down() const { ::shutdown(descriptor_, SHUT_RDWR); }

Status Socket::send_frame(std::string_view bytes, Deadline deadline) const {
  const auto length = static_cast<std::uint32_t>(bytes.size());
  std::string frame(reinterpret_cast<const char*>(&length), sizeof length);
  frame += bytes;
  for (std::size_t sent = 0; sent < frame.size();) {
    const ssize_t count = ::send(descriptor_, frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
    if (count >= 0) {
      sent += static_cast<std::size_t>(count);
    } else if (!would_block(errno)) {
      return Status::unavailable(fmt::format("the other end has left: {}", std::strerror(errno)));
    } else if (!wait_for(descriptor_, POLLOUT, deadline)) {
      return Status::deadline_exceeded("the other end takes nothing");
    }
  }
  return {};
}

Result<std::string> Socket::receive_frame(Deadline deadline) const {
  const auto receive = [&](char* data, std::size_t bytes) -> Status {
    for (std::size_t received = 0; received < bytes;) {
      const ssize_t count = ::recv(descriptor_, data + received, bytes - received, 0);
      if (count > 0) {
        received += static_cast<std::size_t>(count);
      } else if (count == 0 || !would_block(errno)) {
        return Status::unavailable("the other end has left");
      } else if (!wait_for(descriptor_, POLLIN, deadline)) {
        return Status::deadline_exceeded("the other end says nothing");
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
