#include "ranks/peer_group.h"

#include <utility>

namespace tiercel {

PeerGroup::PeerGroup(PeerCommunicator& whole, std::vector<std::uint32_t> ranks, std::uint32_t rank)
    : PeerCommunicator({.rank = rank, .size = static_cast<std::uint32_t>(ranks.size())}),
      whole_(whole),
      ranks_(std::move(ranks)) {}

Status PeerGroup::transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) {
  const auto in_whole = [&](std::vector<Part> parts) {
    for (Part& part : parts) part.peer = ranks_[part.peer];
    return parts;
  };
  return whole_.transfer(meaning, in_whole(received), in_whole(sent));
}

}  // namespace tiercel
