// Random histories of the KV cache with tiers below it, on a disk that fails and through processes that end, against
// the plain model. history_runner.h says how to see a history again.
#include <gtest/gtest.h>

#include "base/logging.h"
#include "tests/sim/history_runner.h"

namespace tiercel::sim {
namespace {

TEST(SimulationWithTiers, WhatComesBackIsWhatWasComputed) {
  log().set_level(spdlog::level::off);  // what fails is what is tested
  const Configuration configuration{
      .name = "Tiers",
      .policies = {PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Adaptive, PolicyKind::Random},
      .tiers = true,
      .reaches = {Seen::Hit,
                  Seen::Copy,
                  Seen::Eviction,
                  Seen::Loaded,
                  Seen::LoadedUsed,
                  Seen::LoadEvicted,
                  Seen::ForgottenInOperation,
                  Seen::Flushed,
                  Seen::FlushRefused,
                  Seen::FlushedFound,
                  Seen::Killed,
                  Seen::PowerLost,
                  Seen::EndedInOperation,
                  Seen::Closed,
                  Seen::OtherModel,
                  Seen::Damaged,
                  Seen::TierFailed,
                  Seen::TierLate,
                  Seen::BreakerOpen,
                  Seen::BreakerClosedAgain,
                  Seen::TierEvicted}};
  run_histories(configuration, 4'000, false);
}

}  // namespace
}  // namespace tiercel::sim
