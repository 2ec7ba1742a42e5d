// The statistics of a step loop: of all requests, and of each endpoint's (Request::endpoint). Those of several loops
// are read together.
//
// Thread-safety: endpoint(), on_queued() and on_rejected() from any thread; begin() and the other events from one
// thread at a time, the step loop's; snapshot() from any. No event takes a lock or allocates; only the first request of
// an endpoint does, where its label is looked up.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/endpoint_labels.h"
#include "engine/request_recorder.h"
#include "tiercel/stats.h"

namespace tiercel {

struct StatsOptions {
  using Clock = std::chrono::steady_clock;

  double window_s = 60;
  // When the engine opened; those that are read together have the same. Empty: now().
  std::optional<Clock::time_point> opened = {};
  // Shared by those that are read together. Null: its own.
  std::shared_ptr<EndpointLabels> labels = {};
  std::vector<std::string> tier_names = {};  // of the cache
  std::function<Clock::time_point()> now = Clock::now;
};

class StatsRecorder {
 public:
  explicit StatsRecorder(StatsOptions options = {});

  // Of a label; kNoEndpoint for an empty one.
  EndpointId endpoint(std::string_view label);

  // `attempt`: Request::attempt.
  void on_queued(EndpointId endpoint, std::uint32_t attempt);
  void on_rejected(EndpointId endpoint, std::uint32_t attempt);  // at the door

  // What follows, until the next call, counts as happening now.
  void begin();
  void on_started(EndpointId endpoint, ReusedByTier reused, double queue_ms);
  // Prompt tokens found after on_started(): in place `place` of its `reused`.
  void on_prompt_tokens_found(EndpointId endpoint, std::size_t place, std::size_t tokens);
  // Prompt tokens; the second ones had to be, as their load from a tier came to nothing.
  void on_prompt_tokens_computed(EndpointId endpoint, std::size_t computed, std::size_t recomputed);
  void on_first_output_token(EndpointId endpoint, double ttft_ms);
  void on_output_token(EndpointId endpoint, double gap_ms);  // gap to the one before, of the same choice
  void on_drafted(EndpointId endpoint, std::size_t drafted, std::size_t accepted);  // in one step
  void on_preempted(EndpointId endpoint);
  void on_demoted(EndpointId endpoint);  // also preempted; its KV was brought to a tier
  void on_ended(EndpointId endpoint, Outcome outcome, bool was_running, double total_ms);
  // `engine_cpu_s`: of the threads that compute steps, since they began.
  void on_step(double seconds, double engine_cpu_s);

  // All but what the cache, the model and the system know.
  EngineStats snapshot() const;
  // Of several together, as if one had recorded all; `replicas` has the part of each.
  static EngineStats snapshot(std::span<const StatsRecorder* const> all);

 private:
  std::uint64_t slot_of(StatsOptions::Clock::time_point time) const;
  // Calls record(recorder, slot) for all requests, and for the endpoint's.
  template <class Record>
  void record(EndpointId endpoint, std::uint64_t slot, const Record& record);

  const StatsOptions options_;
  const std::shared_ptr<EndpointLabels> labels_;
  const StatsOptions::Clock::time_point opened_;
  const std::chrono::nanoseconds slot_length_;
  std::uint64_t slot_ = 0;  // begin()

  std::mutex mutex_;                                     // of those who add an endpoint
  std::vector<std::unique_ptr<RequestRecorder>> owned_;  // by it
  // Of all requests, and of each endpoint that has some here.
  std::array<std::atomic<RequestRecorder*>, EndpointLabels::kMostIds> endpoints_{};

  std::atomic<std::uint64_t> steps_ = 0, busy_ns_ = 0, engine_cpu_ns_ = 0;
  WindowMarks<std::atomic<std::uint64_t>> engine_cpu_marks_;
};

}  // namespace tiercel
