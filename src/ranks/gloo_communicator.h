// Ranks on CPUs: host memory over TCP, through Gloo's transport. For where Gloo is what the ranks' network is known to
// work with: tcp_communicator.h does the same faster (docs/ranks.md has the figures), and without a library.
#pragma once

#include <memory>

#include "ranks/communicator.h"
#include "tiercel/status.h"

namespace tiercel {

// Waits for the other ranks (Rendezvous::open, whose statuses these are), then connects each with each. Unavailable
// also where this build has no Gloo, or the process has another Gloo in its place.
Result<std::unique_ptr<Communicator>> open_gloo_communicator(const CommunicatorOptions& options);

}  // namespace tiercel
