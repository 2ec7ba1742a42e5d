// Ranks on this machine, for who gives their number and no address.
#pragma once

#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel::cli {

// Where `options` have several ranks and no address: starts a process of this program for each but the first, which end
// with this one, each on the next GPU where the first is on one, shares the cores among all where no number of threads
// is given, and fills in the address.
Status start_local_ranks(EngineOptions& options);

}  // namespace tiercel::cli
