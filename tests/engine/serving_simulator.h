// A history of serving: the real step loop, scheduler and cache, turned by hand around the fake model and a clock of
// the history's own. From a seed it draws an engine (limits, cache, quotas, tiers) and what is asked of it, and looks
// at every step, every answer and, at the end, at what is left.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/step_check.h"

namespace tiercel::sim {

// How often what should be reached was.
struct ServingTally {
  std::size_t completed = 0, cancelled = 0, late = 0, failed = 0, rejected = 0, too_large = 0, choices = 0;
  std::size_t preempted = 0, demoted = 0, loaded_blocks = 0, reused_tokens = 0, overtakings = 0, held_by_quota = 0;
  std::size_t drafted_tokens = 0, accepted_tokens = 0;
};

// Runs the history of `seed`. Throws ServingViolation.
void run_serving_history(std::uint64_t seed, ServingTally& tally);

}  // namespace tiercel::sim
