// Runs many histories of one configuration, and says how to see one again that failed.
//
//   TIERCEL_SIM_SEED=123        that history alone, step by step
//   TIERCEL_SIM_HISTORIES=1000  so many histories of each configuration
//   TIERCEL_SIM_FIRST=5000      from that seed on
//   TIERCEL_SIM_TALLY=1         prints what was reached
#pragma once

#include <cstdint>

#include "tests/sim/simulator.h"

namespace tiercel::sim {

// As a gtest case. `histories`: of an optimised build; fewer elsewhere. `every_key_function`: each history with all of
// them, and all must answer alike; else one after the other.
void run_histories(const Configuration& configuration, std::uint64_t histories, bool every_key_function);

}  // namespace tiercel::sim
