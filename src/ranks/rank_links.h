// Connections between rank 0 and each other rank beside the communicator's, for what is asked and answered while a step
// goes on: nobody need answer in the order of the steps, or within their deadline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ranks/communicator.h"
#include "ranks/socket.h"
#include "tiercel/status.h"

namespace tiercel {

// Called by all ranks alike, as an operation of `communicator`. Each rank but the first connects `count` times, to the
// host of its `address` (CommunicatorOptions::address). At rank 0: [i] has those of rank i + 1; elsewhere: [0] has this
// rank's. DeadlineExceeded where that takes longer than `timeout_ms`; what the communicator and Socket say.
Result<std::vector<std::vector<Socket>>> link_with_first(Communicator& communicator, const std::string& address,
                                                         std::size_t count, std::uint64_t timeout_ms);

}  // namespace tiercel
