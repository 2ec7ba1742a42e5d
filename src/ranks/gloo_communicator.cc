// Of Gloo its transport is used: pairs of connected ranks, whose sends and receives meet by a number (slot). Its
// collectives are not, because a ring adds up each piece in another order (communicator.h).
#include "ranks/gloo_communicator.h"

#include <dlfcn.h>
#include <signal.h>

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "ranks/peer_communicator.h"
#include "ranks/rendezvous.h"

namespace tiercel {
namespace {

using std::chrono::milliseconds;

// Gloo writes to connections that the other end has closed, which by default ends the process. Within the life of this,
// on this thread and those that it starts, it does not.
class NoPipeSignal {
 public:
  NoPipeSignal() {
    sigset_t pending;
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoPipeSignal() {
    const std::timespec at_once = {};
    if (!was_pending_) {
      while (::sigtimedwait(&pipe_, nullptr, &at_once) == SIGPIPE) {
      }
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoPipeSignal(const NoPipeSignal&) = delete;
  NoPipeSignal& operator=(const NoPipeSignal&) = delete;

 private:
  sigset_t pipe_, before_;
  bool was_pending_;
};

class GlooCommunicator final : public PeerCommunicator {
 public:
  GlooCommunicator(const CommunicatorOptions& options, std::shared_ptr<gloo::transport::Context> context)
      : PeerCommunicator(options), context_(std::move(context)) {}

  void abort() override;

 private:
  using Buffers = std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>>;

  Status transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) override;
  void disconnect() const;

  const std::shared_ptr<gloo::transport::Context> context_;
  std::mutex waited_mutex_;
  const Buffers* waited_ = nullptr;  // of the operation under way
};

// The others see their connections closed.
void GlooCommunicator::disconnect() const {
  for_each_peer([&](std::uint32_t peer) {
    try {
      context_->getPair(static_cast<int>(peer))->close();
    } catch (const std::exception&) {  // it is closed already
    }
  });
}

void GlooCommunicator::abort() {
  static_cast<void>(fail(Status::cancelled(fmt::format("rank {} ended its operations", rank()))));
  {
    const std::lock_guard lock(waited_mutex_);
    if (waited_ != nullptr) {  // whoever is in an operation disconnects
      for (const auto& buffer : *waited_) {
        buffer->abortWaitRecv();
        buffer->abortWaitSend();
      }
      return;
    }
  }
  disconnect();
}

Status GlooCommunicator::transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) {
  const NoPipeSignal no_signal;
  const Deadline deadline = RankClock::now() + timeout();
  Buffers buffers;              // first of received, then of sent
  std::uint32_t peer = rank();  // who is waited for
  Status status;
  try {
    for (const auto* parts : {&received, &sent}) {
      for (const Part& part : *parts) buffers.push_back(context_->createUnboundBuffer(part.data, part.bytes));
    }
    {
      const std::lock_guard lock(waited_mutex_);
      TIERCEL_RETURN_IF_ERROR(failure());
      waited_ = &buffers;
    }
    // With the size in it, since Gloo ends the process where more comes than is to be received.
    const auto slot_of = [&](const Part& part) {
      return std::uint64_t{part.bytes} << 3 | static_cast<std::uint64_t>(meaning);
    };
    std::size_t next = 0;
    for (const Part& part : received) {
      peer = part.peer;
      buffers[next++]->recv(static_cast<int>(peer), slot_of(part), 0, part.bytes);
    }
    for (const Part& part : sent) {
      peer = part.peer;
      buffers[next++]->send(static_cast<int>(peer), slot_of(part), 0, part.bytes);
    }
    bool goes_on = true;  // false: abort()
    for (std::size_t i = 0; i < buffers.size() && goes_on; ++i) {
      const bool receives = i < received.size();
      peer = receives ? received[i].peer : sent[i - received.size()].peer;
      // Gloo takes 0 for a time of its own.
      const auto left = std::max(milliseconds(1), std::chrono::ceil<milliseconds>(deadline - RankClock::now()));
      goes_on = receives ? buffers[i]->waitRecv(left) : buffers[i]->waitSend(left);
    }
  } catch (const std::exception& error) {
    status = RankClock::now() >= deadline
                 ? Status::deadline_exceeded(fmt::format("rank {} did not come to {} within {} ms, seen by rank {}",
                                                         peer, name_of(meaning), timeout().count(), rank()))
                 : Status::unavailable(fmt::format("rank {} is gone, seen by rank {}: {}", peer, rank(), error.what()));
  }
  {
    const std::lock_guard lock(waited_mutex_);
    waited_ = nullptr;
  }
  if (status.ok()) status = failure();  // by abort()
  if (status.ok()) return status;
  status = fail(std::move(status));
  disconnect();
  return status;
}

// LibTorch has another Gloo inside and exports its names. Whichever library a program loads first gives both; with
// LibTorch's, what was compiled here against Gloo's own headers would not fit.
Status check_linked_gloo() {
  Dl_info info = {};
  const auto function = reinterpret_cast<const void*>(&gloo::transport::tcp::CreateDevice);
  if (::dladdr(function, &info) != 0 && info.dli_fname != nullptr &&
      std::string_view(info.dli_fname).find("libgloo") != std::string_view::npos) {
    return {};
  }
  return Status::unavailable(
      fmt::format("Gloo comes from {} in this process, not from libgloo; link tiercel::engine before LibTorch, or take "
                  "the transport tcp",
                  info.dli_fname ? info.dli_fname : "nowhere"));
}

}  // namespace

Result<std::unique_ptr<Communicator>> open_gloo_communicator(const CommunicatorOptions& options) {
  TIERCEL_RETURN_IF_ERROR(check_linked_gloo());
  auto rendezvous = Rendezvous::open(options);
  if (!rendezvous.ok()) return rendezvous.status();
  try {
    const NoPipeSignal no_signal;  // in the thread of the device neither
    gloo::transport::tcp::attr attributes;
    attributes.hostname = rendezvous->local_host();
    const auto device = gloo::transport::tcp::CreateDevice(attributes);
    const int rank = static_cast<int>(options.rank), size = static_cast<int>(options.size);
    auto context = device->createContext(rank, size);
    context->setTimeout(
        std::max(milliseconds(1), std::chrono::ceil<milliseconds>(rendezvous->deadline() - RankClock::now())));

    // Addresses for each of the others, of one size each.
    std::string addresses;
    std::size_t address_bytes = 0;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::vector<char> address = context->createPair(peer)->address().bytes();
      addresses.append(address.begin(), address.end());
      address_bytes = address.size();
    }
    const auto all = rendezvous->exchange(addresses);
    if (!all.ok()) return all.status();
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::string& theirs = (*all)[static_cast<std::size_t>(peer)];
      if (theirs.size() != addresses.size()) {
        return Status::unavailable(fmt::format(
            "ranks {} and {} speak otherwise: are their transports and versions of Gloo alike?", rank, peer));
      }
      const auto place = static_cast<std::size_t>(rank > peer ? rank - 1 : rank) * address_bytes;
      const std::string address = theirs.substr(place, address_bytes);
      context->getPair(peer)->connect(std::vector<char>(address.begin(), address.end()));
    }
    return std::unique_ptr<Communicator>(std::make_unique<GlooCommunicator>(options, std::move(context)));
  } catch (const std::exception& error) {
    return Status::unavailable(fmt::format("rank {} cannot connect to the others: {}", options.rank, error.what()));
  }
}

}  // namespace tiercel
