#include "ranks/peer_communicator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "ranks/peer_group.h"

namespace tiercel {
namespace {

// Up to so many bytes, or between two ranks, everybody sends everything to everybody: one way through the network, not
// two.
constexpr std::size_t kBytesSentWhole = 16 << 10;
// Elements added up at a time, on the stack.
constexpr std::size_t kSumElements = 1024;

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

}  // namespace

std::string_view PeerCommunicator::name_of(Meaning meaning) {
  switch (meaning) {
    case Meaning::Sum:
    case Meaning::Piece:
    case Meaning::SumOfPiece: return "all_reduce_sum";
    case Meaning::Gather: return "all_gather";
    case Meaning::Broadcast: return "broadcast";
    case Meaning::Message: return "send and receive";
    case Meaning::Barrier: return "barrier";
  }
  return "nothing known";
}

Status PeerCommunicator::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

Status PeerCommunicator::fail(Status status) {
  const std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = std::move(status);
  return failure_;
}

Status PeerCommunicator::check_peer(std::uint32_t peer) const {
  if (peer < size_) return {};
  return Status::invalid_argument(fmt::format("rank {} is none of 0 to {}", peer, size_ - 1));
}

Status PeerCommunicator::check_other(std::uint32_t peer) const {
  if (peer == rank_) return Status::invalid_argument(fmt::format("rank {} is this one, not another", peer));
  return check_peer(peer);
}

Status PeerCommunicator::exchange(Meaning meaning, std::vector<Part> received, std::vector<Part> sent) {
  TIERCEL_RETURN_IF_ERROR(failure());
  for (auto* parts : {&received, &sent}) {
    std::erase_if(*parts, [](const Part& part) { return part.bytes == 0; });
  }
  return received.empty() && sent.empty() ? Status() : transfer(meaning, received, sent);
}

Status PeerCommunicator::all_reduce_sum(void* values, std::size_t count, Element element) {
  auto* const bytes = static_cast<std::byte*>(values);
  const std::size_t width = element_bytes(element);
  const bool is_whole = size_ <= 2 || count * width <= kBytesSentWhole;
  // The elements that a rank adds up for all.
  const auto begin_of = [&](std::uint32_t rank) { return is_whole ? 0 : count * rank / size_; };
  const auto end_of = [&](std::uint32_t rank) { return is_whole ? count : count * (rank + 1) / size_; };
  const auto piece_for = [&](std::uint32_t peer, std::uint32_t rank) {
    return Part{.peer = peer, .data = bytes + begin_of(rank) * width, .bytes = (end_of(rank) - begin_of(rank)) * width};
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
    sent.push_back(piece_for(peer, peer));
  });
  TIERCEL_RETURN_IF_ERROR(exchange(is_whole ? Meaning::Sum : Meaning::Piece, std::move(received), std::move(sent)));
  if (size_ > 1) add_up(element, terms, own, bytes + begin_of(rank_) * width);
  if (is_whole) return {};

  std::vector<Part> sums, own_sum;
  for_each_peer([&](std::uint32_t peer) {
    sums.push_back(piece_for(peer, peer));
    own_sum.push_back(piece_for(peer, rank_));
  });
  return exchange(Meaning::SumOfPiece, std::move(sums), std::move(own_sum));
}

Status PeerCommunicator::all_gather(const void* mine, std::size_t bytes, void* all) {
  auto* const out = static_cast<std::byte*>(all);
  if (bytes > 0) std::memmove(out + rank_ * bytes, mine, bytes);
  std::vector<Part> received, sent;
  for_each_peer([&](std::uint32_t peer) {
    received.push_back({.peer = peer, .data = out + peer * bytes, .bytes = bytes});
    sent.push_back({.peer = peer, .data = out + rank_ * bytes, .bytes = bytes});
  });
  return exchange(Meaning::Gather, std::move(received), std::move(sent));
}

Status PeerCommunicator::broadcast(void* data, std::size_t bytes, std::uint32_t root) {
  TIERCEL_RETURN_IF_ERROR(check_peer(root));
  std::vector<Part> received, sent;
  if (rank_ == root) {
    for_each_peer([&](std::uint32_t peer) { sent.push_back({.peer = peer, .data = data, .bytes = bytes}); });
  } else {
    received.push_back({.peer = root, .data = data, .bytes = bytes});
  }
  return exchange(Meaning::Broadcast, std::move(received), std::move(sent));
}

Status PeerCommunicator::send(const void* data, std::size_t bytes, std::uint32_t to) {
  TIERCEL_RETURN_IF_ERROR(check_other(to));
  return exchange(Meaning::Message, {}, {{.peer = to, .data = const_cast<void*>(data), .bytes = bytes}});
}

Status PeerCommunicator::receive(void* data, std::size_t bytes, std::uint32_t from) {
  TIERCEL_RETURN_IF_ERROR(check_other(from));
  return exchange(Meaning::Message, {{.peer = from, .data = data, .bytes = bytes}}, {});
}

Status PeerCommunicator::barrier() {
  std::byte mine{};
  std::vector<std::byte> theirs(size_);
  std::vector<Part> received, sent;
  for_each_peer([&](std::uint32_t peer) {
    received.push_back({.peer = peer, .data = &theirs[peer], .bytes = 1});
    sent.push_back({.peer = peer, .data = &mine, .bytes = 1});
  });
  return exchange(Meaning::Barrier, std::move(received), std::move(sent));
}

Result<std::unique_ptr<Communicator>> PeerCommunicator::group(const std::vector<std::uint32_t>& ranks) {
  TIERCEL_RETURN_IF_ERROR(check_group(ranks, rank_, size_));
  const auto own = std::ranges::find(ranks, rank_);
  return std::unique_ptr<Communicator>(
      std::make_unique<PeerGroup>(*this, ranks, static_cast<std::uint32_t>(own - ranks.begin())));
}

}  // namespace tiercel
