// An engine whose accounts are checked when it ends: every test of an engine uses it.
#pragma once

#include <utility>

#include "tests/engine/stats_identities.h"
#include "tiercel/engine.h"

namespace tiercel {

class CheckedEngine : public Engine {
 public:
  CheckedEngine(Engine engine) : Engine(std::move(engine)) {}  // NOLINT: implicit by design
  ~CheckedEngine() {
    close();
    const EngineStats stats = get_stats();
    expect_identities(stats);
    EXPECT_EQ(stats.queued + stats.running, 0u) << "a request has no outcome";
  }
};

}  // namespace tiercel
