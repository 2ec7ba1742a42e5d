// Of Gloo its transport is used: pairs of connected ranks, whose sends and receives meet by a number (slot). Its
// collectives are not, because a ring adds up each piece in another order (communicator.h).
#include "ranks/gloo_communicator.h"

#include <dlfcn.h>

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "ranks/rendezvous.h"

namespace tiercel {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Up to so many bytes, or between two ranks, everybody sends everything to everybody: one way through the network, not
// two.
constexpr std::size_t kBytesSentWhole = 16 << 10;
// Elements added up at a time, on the stack.
constexpr std::size_t kSumElements = 1024;

// What a message is part of. With its size it makes the slot, so that an operation meets its like, of the same size, or
// nobody. (Gloo ends the process where more comes than is to be received.)
enum class Meaning : std::uint8_t { Sum, Piece, SumOfPiece, Gather, Broadcast, Message, Barrier };

struct Part {
  std::uint32_t peer;
  void* data;
  std::size_t bytes;
};

float to_float(float value) { return value; }
float to_float(std::uint16_t bf16) { return std::bit_cast<float>(std::uint32_t{bf16} << 16); }
void from_float(float value, float& out) { out = value; }
void from_float(float value, std::uint16_t& out) {  // to the nearest, ties to even
  const auto bits = std::bit_cast<std::uint32_t>(value);
  out = value != value ? std::uint16_t{0x7fc0} : static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// out[i] = ((terms[0][i] + terms[1][i]) + terms[2][i]) + ...; `out` may be one of the terms.
template <class Value>
void add_in_order(const std::vector<const std::byte*>& terms, std::size_t count, std::byte* out) {
  std::array<float, kSumElements> sums;
  for (std::size_t first = 0; first < count; first += kSumElements) {
    const std::size_t here = std::min(kSumElements, count - first);
    const auto values = [&](const std::byte* bytes) { return reinterpret_cast<const Value*>(bytes) + first; };
    const Value* const begin = values(terms.front());
    for (std::size_t i = 0; i < here; ++i) sums[i] = to_float(begin[i]);
    for (std::size_t t = 1; t < terms.size(); ++t) {
      const Value* const term = values(terms[t]);
      for (std::size_t i = 0; i < here; ++i) sums[i] += to_float(term[i]);
    }
    Value* const result = reinterpret_cast<Value*>(out) + first;
    for (std::size_t i = 0; i < here; ++i) from_float(sums[i], result[i]);
  }
}

void add_integers(const std::vector<const std::byte*>& terms, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t sum = 0;  // wraps
    for (const std::byte* term : terms) sum += reinterpret_cast<const std::uint32_t*>(term)[i];
    reinterpret_cast<std::uint32_t*>(out)[i] = sum;
  }
}

void add_up(Element element, const std::vector<const std::byte*>& terms, std::size_t count, std::byte* out) {
  switch (element) {
    case Element::F32: return add_in_order<float>(terms, count, out);
    case Element::BF16: return add_in_order<std::uint16_t>(terms, count, out);
    case Element::I32: return add_integers(terms, count, out);
  }
}

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(const CommunicatorOptions& options, std::shared_ptr<gloo::transport::Context> context)
      : rank_(options.rank), size_(options.size), timeout_(options.timeout_ms), context_(std::move(context)) {}

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t size() const override { return size_; }

  Status all_reduce_sum(void* values, std::size_t count, Element element) override;
  Status all_gather(const void* mine, std::size_t bytes, void* all) override;
  Status broadcast(void* data, std::size_t bytes, std::uint32_t root) override;
  Status send(const void* data, std::size_t bytes, std::uint32_t to) override;
  Status receive(void* data, std::size_t bytes, std::uint32_t from) override;
  Status barrier() override;

  void set_timeout_ms(std::uint64_t timeout_ms) override { timeout_ = milliseconds(timeout_ms); }
  Status wait() override { return failure(); }
  void abort() override;

 private:
  // Receives and sends all of these at once, and returns when they are through. Final where it fails.
  Status transfer(std::string_view operation, Meaning meaning, std::vector<Part> received, std::vector<Part> sent);
  Status check_peer(std::uint32_t peer) const;
  Status failure() const;
  Status fail(Status status);
  void disconnect();
  template <class Each>
  void for_each_peer(const Each& each) const {
    for (std::uint32_t peer = 0; peer < size_; ++peer) {
      if (peer != rank_) each(peer);
    }
  }

  const std::uint32_t rank_, size_;
  milliseconds timeout_;
  const std::shared_ptr<gloo::transport::Context> context_;
  std::vector<std::byte> scratch_;  // what came from the others, to be added up

  mutable std::mutex mutex_;
  Status failure_;                                      // the first
  std::vector<gloo::transport::UnboundBuffer*> waited_;  // of the operation under way
  bool is_busy_ = false;                                // there is one
};

Status GlooCommunicator::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

Status GlooCommunicator::check_peer(std::uint32_t peer) const {
  if (peer < size_) return {};
  return Status::invalid_argument(fmt::format("rank {} is none of 0 to {}", peer, size_ - 1));
}

// The others see their connections closed.
void GlooCommunicator::disconnect() {
  for_each_peer([&](std::uint32_t peer) {
    try {
      context_->getPair(static_cast<int>(peer))->close();
    } catch (const std::exception&) {  // it is closed already
    }
  });
}

Status GlooCommunicator::fail(Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = std::move(status);
    status = failure_;
  }
  disconnect();
  return status;
}

void GlooCommunicator::abort() {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = Status::cancelled(fmt::format("rank {} ended its operations", rank_));
    for (gloo::transport::UnboundBuffer* buffer : waited_) {
      buffer->abortWaitRecv();
      buffer->abortWaitSend();
    }
    if (is_busy_) return;  // whoever is in an operation disconnects
  }
  disconnect();
}

Status GlooCommunicator::transfer(std::string_view operation, Meaning meaning, std::vector<Part> received,
                                  std::vector<Part> sent) {
  const auto deadline = Clock::now() + timeout_;
  const auto is_empty = [](const Part& part) { return part.bytes == 0; };
  std::erase_if(received, is_empty);
  std::erase_if(sent, is_empty);
  std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>> buffers;  // first of received, then of sent
  std::uint32_t peer = rank_;                                           // who is waited for
  Status status;
  try {
    for (const auto* parts : {&received, &sent}) {
      for (const Part& part : *parts) buffers.push_back(context_->createUnboundBuffer(part.data, part.bytes));
    }
    {
      const std::lock_guard lock(mutex_);
      if (!failure_.ok()) return failure_;
      is_busy_ = true;
      for (const auto& buffer : buffers) waited_.push_back(buffer.get());
    }
    const auto slot = [&](const Part& part) {
      return static_cast<std::uint64_t>(part.bytes) << 3 | static_cast<std::uint64_t>(meaning);
    };
    std::size_t next = 0;
    for (const Part& part : received) {
      peer = part.peer;
      buffers[next++]->recv(static_cast<int>(peer), slot(part), 0, part.bytes);
    }
    for (const Part& part : sent) {
      peer = part.peer;
      buffers[next++]->send(static_cast<int>(peer), slot(part), 0, part.bytes);
    }
    bool is_through = true;  // false: abort()
    for (std::size_t i = 0; i < buffers.size() && is_through; ++i) {
      const bool receives = i < received.size();
      peer = receives ? received[i].peer : sent[i - received.size()].peer;
      // Gloo takes 0 for no time of its own.
      const auto left = std::max(milliseconds(1), std::chrono::ceil<milliseconds>(deadline - Clock::now()));
      is_through = receives ? buffers[i]->waitRecv(left) : buffers[i]->waitSend(left);
    }
  } catch (const std::exception& error) {
    status = Clock::now() >= deadline
                 ? Status::deadline_exceeded(fmt::format("rank {} did not come to {} within {} ms", peer, operation,
                                                         timeout_.count()))
                 : Status::unavailable(fmt::format("rank {} is gone, seen by rank {} in {}: {}", peer, rank_, operation,
                                                   error.what()));
  }
  {
    const std::lock_guard lock(mutex_);
    waited_.clear();
    is_busy_ = false;
    if (status.ok()) status = failure_;  // by abort()
  }
  return status.ok() ? status : fail(std::move(status));
}

Status GlooCommunicator::all_reduce_sum(void* values, std::size_t count, Element element) {
  if (size_ == 1) return failure();
  auto* const bytes = static_cast<std::byte*>(values);
  const std::size_t width = element_bytes(element);
  const bool is_whole = size_ == 2 || count * width <= kBytesSentWhole;
  // The elements that a rank adds up for all.
  const auto begin_of = [&](std::uint32_t rank) { return is_whole ? 0 : count * rank / size_; };
  const auto end_of = [&](std::uint32_t rank) { return is_whole ? count : count * (rank + 1) / size_; };
  const auto piece = [&](std::uint32_t rank) {
    return Part{.peer = rank, .data = bytes + begin_of(rank) * width, .bytes = (end_of(rank) - begin_of(rank)) * width};
  };

  const std::size_t own = end_of(rank_) - begin_of(rank_);
  if (scratch_.size() < size_ * own * width) scratch_.resize(size_ * own * width);
  std::vector<const std::byte*> terms(size_);
  std::vector<Part> received, sent;
  terms[rank_] = bytes + begin_of(rank_) * width;
  for_each_peer([&](std::uint32_t peer) {
    std::byte* const from_peer = scratch_.data() + peer * own * width;
    terms[peer] = from_peer;
    received.push_back({.peer = peer, .data = from_peer, .bytes = own * width});
    sent.push_back(piece(peer));
  });
  TIERCEL_RETURN_IF_ERROR(transfer("all_reduce_sum", is_whole ? Meaning::Sum : Meaning::Piece, std::move(received),
                                   std::move(sent)));
  add_up(element, terms, own, bytes + begin_of(rank_) * width);
  if (is_whole) return {};

  std::vector<Part> sums, own_sum;
  for_each_peer([&](std::uint32_t peer) {
    sums.push_back(piece(peer));
    own_sum.push_back(piece(rank_));
    own_sum.back().peer = peer;
  });
  return transfer("all_reduce_sum", Meaning::SumOfPiece, std::move(sums), std::move(own_sum));
}

Status GlooCommunicator::all_gather(const void* mine, std::size_t bytes, void* all) {
  auto* const out = static_cast<std::byte*>(all);
  if (bytes > 0) std::memmove(out + rank_ * bytes, mine, bytes);
  std::vector<Part> received, sent;
  for_each_peer([&](std::uint32_t peer) {
    received.push_back({.peer = peer, .data = out + peer * bytes, .bytes = bytes});
    sent.push_back({.peer = peer, .data = out + rank_ * bytes, .bytes = bytes});
  });
  return transfer("all_gather", Meaning::Gather, std::move(received), std::move(sent));
}

Status GlooCommunicator::broadcast(void* data, std::size_t bytes, std::uint32_t root) {
  TIERCEL_RETURN_IF_ERROR(check_peer(root));
  std::vector<Part> received, sent;
  if (rank_ == root) {
    for_each_peer([&](std::uint32_t peer) { sent.push_back({.peer = peer, .data = data, .bytes = bytes}); });
  } else {
    received.push_back({.peer = root, .data = data, .bytes = bytes});
  }
  return transfer("broadcast", Meaning::Broadcast, std::move(received), std::move(sent));
}

Status GlooCommunicator::send(const void* data, std::size_t bytes, std::uint32_t to) {
  TIERCEL_RETURN_IF_ERROR(check_peer(to));
  if (to == rank_) return Status::invalid_argument(fmt::format("rank {} cannot send to itself", to));
  return transfer("send", Meaning::Message, {}, {{.peer = to, .data = const_cast<void*>(data), .bytes = bytes}});
}

Status GlooCommunicator::receive(void* data, std::size_t bytes, std::uint32_t from) {
  TIERCEL_RETURN_IF_ERROR(check_peer(from));
  if (from == rank_) return Status::invalid_argument(fmt::format("rank {} cannot receive from itself", from));
  return transfer("receive", Meaning::Message, {{.peer = from, .data = data, .bytes = bytes}}, {});
}

Status GlooCommunicator::barrier() {
  std::byte mine{};
  std::vector<std::byte> theirs(size_);
  std::vector<Part> received, sent;
  for_each_peer([&](std::uint32_t peer) {
    received.push_back({.peer = peer, .data = &theirs[peer], .bytes = 1});
    sent.push_back({.peer = peer, .data = &mine, .bytes = 1});
  });
  return transfer("barrier", Meaning::Barrier, std::move(received), std::move(sent));
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
      fmt::format("Gloo comes from {} in this process, not from libgloo: link tiercel::engine before LibTorch",
                  info.dli_fname ? info.dli_fname : "nowhere"));
}

}  // namespace

Result<std::unique_ptr<Communicator>> open_gloo_communicator(const CommunicatorOptions& options) {
  TIERCEL_RETURN_IF_ERROR(check_linked_gloo());
  const auto deadline = Clock::now() + milliseconds(options.open_timeout_ms);
  auto rendezvous = Rendezvous::open(options);
  if (!rendezvous.ok()) return rendezvous.status();
  try {
    gloo::transport::tcp::attr attributes;
    attributes.hostname = rendezvous->local_address();
    const auto device = gloo::transport::tcp::CreateDevice(attributes);
    const int rank = static_cast<int>(options.rank), size = static_cast<int>(options.size);
    auto context = device->createContext(rank, size);
    context->setTimeout(std::max(milliseconds(1), std::chrono::ceil<milliseconds>(deadline - Clock::now())));

    // Addresses of all pairs, to each of the others, of one size each.
    std::string addresses;
    std::size_t address_bytes = 0;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::vector<char> address = context->createPair(peer)->address().bytes();
      addresses.append(address.begin(), address.end());
      address_bytes = address.size();
    }
    auto all = rendezvous->exchange(addresses);
    if (!all.ok()) return all.status();
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::string& theirs = (*all)[static_cast<std::size_t>(peer)];
      const auto place = static_cast<std::size_t>(rank > peer ? rank - 1 : rank) * address_bytes;
      if (theirs.size() != addresses.size()) return Status::unavailable("the ranks have different versions of Gloo");
      context->getPair(peer)->connect(std::vector<char>(theirs.begin() + static_cast<std::ptrdiff_t>(place),
                                                        theirs.begin() + static_cast<std::ptrdiff_t>(place + address_bytes)));
    }
    return std::unique_ptr<Communicator>(std::make_unique<GlooCommunicator>(options, std::move(context)));
  } catch (const std::exception& error) {
    return Status::unavailable(fmt::format("rank {} cannot connect to the others: {}", options.rank, error.what()));
  }
}

}  // namespace tiercel
