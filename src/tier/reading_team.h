// The threads that share the blocks of one read, to copy, verify and decode them: two, where there are two cores. While
// a prompt waits for its KV both are idle; more would take cores from the steps of other requests.
#pragma once

#include <algorithm>
#include <memory>
#include <thread>

#include "base/thread_team.h"

namespace tiercel {

// May throw std::bad_alloc and std::system_error.
inline std::unique_ptr<ThreadTeam> reading_team() {
  return std::make_unique<ThreadTeam>(std::clamp(std::thread::hardware_concurrency(), 1u, 2u));
}

}  // namespace tiercel
