// Some of the ranks of a communicator as one of their own (Communicator::group): what its operations move goes through
// the whole's transport, under the whole's deadline, and what fails there fails here.
#pragma once

#include <cstdint>
#include <vector>

#include "ranks/peer_communicator.h"

namespace tiercel {

class PeerGroup final : public PeerCommunicator {
 public:
  // ranks[rank] is whole.rank(); all are ranks of `whole`, which outlives this.
  PeerGroup(PeerCommunicator& whole, std::vector<std::uint32_t> ranks, std::uint32_t rank);

  void set_timeout_ms(std::uint64_t timeout_ms) override { whole_.set_timeout_ms(timeout_ms); }
  void abort() override { whole_.abort(); }

 private:
  Status transfer(Meaning meaning, const std::vector<Part>& received, const std::vector<Part>& sent) override;
  Status failure() const override { return whole_.failure(); }

  PeerCommunicator& whole_;
  const std::vector<std::uint32_t> ranks_;  // by number here
};

}  // namespace tiercel
