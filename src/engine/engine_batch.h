// Engine::process_batch(), over whatever answers requests.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "tiercel/engine.h"

namespace tiercel {

// Keeps up to `most_in_flight` requests at `process`; what is Rejected for want of room is sent again.
std::vector<Result<Response>> process_batch(std::span<const Request> requests, std::size_t most_in_flight,
                                            const std::function<ResponseFuture(Request)>& process,
                                            const BatchProgress& progress);

}  // namespace tiercel
