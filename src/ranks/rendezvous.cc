#include "ranks/rendezvous.h"

#include <algorithm>
#include <cstdio>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tiercel {
namespace {

// Begins what a newcomer says, and changes with what ranks say to each other afterwards.
constexpr std::string_view kGreeting = "tiercel ranks 2 ";
constexpr std::string_view kWelcome = "welcome";
// Who connects and says nothing is no rank.
constexpr std::chrono::seconds kGreetingTime{2};
constexpr std::chrono::milliseconds kConnectPause{50};

}  // namespace

Rendezvous::Rendezvous(const CommunicatorOptions& options)
    : options_(options), deadline_(RankClock::now() + std::chrono::milliseconds(options.open_timeout_ms)) {}

Result<Rendezvous> Rendezvous::open(const CommunicatorOptions& options) {
  if (options.rank >= options.size) {
    return Status::invalid_argument(
        fmt::format("rank is {} of {} ranks; give 0 to {}", options.rank, options.size, options.size - 1));
  }
  const auto address = parse_address(options.address);
  if (!address.ok()) return address.status();
  Rendezvous rendezvous(options);
  TIERCEL_RETURN_IF_ERROR(options.rank == 0 ? rendezvous.wait_for_others(*address)
                                            : rendezvous.come_to_first(*address));
  return rendezvous;
}

Status Rendezvous::wait_for_others(const HostPort& address) {
  const auto listener = Socket::listen_at(address, static_cast<int>(options_.size));
  if (!listener.ok()) return listener.status();
  peers_.resize(options_.size);
  while (true) {
    std::vector<std::uint32_t> missing;
    for (std::uint32_t rank = 1; rank < options_.size; ++rank) {
      if (!is_here(rank)) missing.push_back(rank);
    }
    if (missing.empty()) break;
    auto newcomer = listener->accept(deadline_);
    if (!newcomer.ok()) {
      return Status::deadline_exceeded(fmt::format("rank {} did not come to {} within {} ms", fmt::join(missing, ", "),
                                                   options_.address, options_.open_timeout_ms));
    }
    welcome(*std::move(newcomer));
  }
  local_host_ = options_.size > 1 ? peers_[1].local_address().host : address.host;
  for (std::uint32_t rank = 1; rank < options_.size; ++rank) {
    TIERCEL_RETURN_IF_ERROR(peers_[rank].send_frame(kWelcome, deadline_));
  }
  return {};
}

void Rendezvous::welcome(Socket newcomer) {
  const auto greeting = newcomer.receive_frame(std::min(deadline_, RankClock::now() + kGreetingTime));
  unsigned rank = 0, size = 0;
  if (!greeting.ok() || !greeting->starts_with(kGreeting) ||
      std::sscanf(greeting->c_str() + kGreeting.size(), "%u of %u", &rank, &size) != 2) {
    return;  // no rank of ours
  }
  std::string refusal;
  if (size != options_.size) {
    refusal = fmt::format("rank 0 counts {} ranks, rank {} counts {}; give all the same", options_.size, rank, size);
  } else if (rank == 0 || rank >= size) {
    refusal = fmt::format("rank is {}; give 1 to {}: rank 0 is there", rank, size - 1);
  } else if (is_here(rank)) {
    refusal = fmt::format("there is a rank {} already; give each another number", rank);
  }
  if (refusal.empty()) {
    peers_[rank] = std::move(newcomer);
  } else {
    static_cast<void>(newcomer.send_frame(refusal, deadline_));
  }
}

Status Rendezvous::come_to_first(const HostPort& address) {
  while (true) {
    auto first = Socket::connect_to(address, deadline_);
    if (first.ok()) {
      TIERCEL_RETURN_IF_ERROR(
          first->send_frame(fmt::format("{}{} of {}", kGreeting, options_.rank, options_.size), deadline_));
      // The answer comes when all are there. A rank 0 that ends meanwhile may begin anew.
      const auto answer = first->receive_frame(deadline_);
      if (answer.ok() && *answer != kWelcome) return Status::invalid_argument(*answer);
      if (answer.ok()) {
        local_host_ = first->local_address().host;
        peers_.push_back(*std::move(first));
        return {};
      }
    }
    if (RankClock::now() + kConnectPause >= deadline_) break;
    std::this_thread::sleep_for(kConnectPause);
  }
  return Status::deadline_exceeded(fmt::format("rank {} found no rank 0 with all others at {} within {} ms",
                                               options_.rank, options_.address, options_.open_timeout_ms));
}

Result<std::vector<std::string>> Rendezvous::exchange(std::string_view mine) {
  std::vector<std::string> all(options_.size);
  all[options_.rank] = mine;
  const bool is_first = options_.rank == 0;
  if (!is_first) TIERCEL_RETURN_IF_ERROR(peers_.front().send_frame(mine, deadline_));
  for (std::uint32_t rank = 0; rank < options_.size; ++rank) {
    if (rank == options_.rank) continue;
    auto frame = peers_[is_first ? rank : 0].receive_frame(deadline_);
    if (!frame.ok()) return frame.status();
    all[rank] = *std::move(frame);
  }
  for (std::uint32_t to = 1; is_first && to < options_.size; ++to) {
    for (std::uint32_t rank = 0; rank < options_.size; ++rank) {
      if (rank != to) TIERCEL_RETURN_IF_ERROR(peers_[to].send_frame(all[rank], deadline_));
    }
  }
  return all;
}

}  // namespace tiercel
