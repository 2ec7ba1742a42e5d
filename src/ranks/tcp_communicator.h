// Ranks on CPUs: host memory over TCP, by sockets alone. Across processes, machines or the threads of one process.
//
// The thread that calls moves the bytes itself, with no thread behind it, so a message costs what the system's calls
// cost. Where an operation meets another, or one of another size, both ends fail at once with Internal.
#pragma once

#include <memory>

#include "ranks/communicator.h"
#include "tiercel/status.h"

namespace tiercel {

// Waits for the other ranks (Rendezvous::open, whose statuses these are), then connects each with each.
Result<std::unique_ptr<Communicator>> open_tcp_communicator(const CommunicatorOptions& options);

}  // namespace tiercel
