// Counts what happens, under one lock, so that every snapshot's identities hold (see stats.h).
#pragma once

#include <chrono>
#include <mutex>

#include "base/histogram.h"
#include "tiercel/stats.h"

namespace tiercel {

enum class Outcome { Completed, Failed, Cancelled };

class StatsRecorder {
 public:
  void on_rejected();  // at the door
  void on_queued();
  void on_started(std::size_t reused_tokens, double queue_ms);  // queued -> running
  void on_prompt_tokens_joined(std::size_t tokens);             // reused, found later than on_started()
  void on_prompt_tokens_computed(std::size_t tokens);
  void on_output_token(double gap_ms);  // gap to the one before, of the same request
  void on_first_output_token(double ttft_ms);
  void on_ended(Outcome outcome, bool was_running, double total_ms);
  void on_step(double seconds);

  // Everything but memory and evictions, which others own.
  EngineStats snapshot() const;

 private:
  mutable std::mutex mutex_;
  const std::chrono::steady_clock::time_point opened_ = std::chrono::steady_clock::now();
  EngineStats counters_;  // the plain counters of a snapshot
  LatencyHistogram queue_, ttft_, per_token_, total_;
};

}  // namespace tiercel
