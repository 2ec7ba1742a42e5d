// Counts what happens to requests: to all of them, or to those of one endpoint.
//
// Every event is one increment, made at one station on a request's way (arrival, start, end). A reader looks at the
// last station first, so it sees nobody leave a station who has not entered it, and what is between two stations is
// never negative. No lock, no retry, nothing that a writer waits for.
//
// Thread-safety: on_queued() and on_rejected() from any thread, the other events from one thread at a time, snapshot()
// from any.
#pragma once

#include <array>
#include <atomic>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "engine/stats_window.h"
#include "kv/tier_transfer.h"
#include "tiercel/stats.h"

namespace tiercel {

enum class Outcome : std::uint8_t { Completed, Failed, TimedOut, Cancelled };

// A request's prompt tokens, found in the hot arena and in each tier: Response::reused_by_tier.
using ReusedByTier = std::span<const std::pair<std::string, std::uint32_t>>;

class RequestRecorder {
 public:
  // Every event happens in a slot; those of one writer in ascending order.
  using Slot = std::uint64_t;

  void on_queued(Slot slot, bool retry);
  void on_rejected(Slot slot, bool retry);
  void on_started(Slot slot, ReusedByTier reused, double queue_ms);  // queued -> running
  void on_prompt_tokens_found(Slot slot, std::size_t place, std::size_t tokens) { add(slot, kReused + place, tokens); }
  void on_prompt_tokens_computed(Slot slot, std::size_t computed, std::size_t recomputed);
  void on_first_output_token(Slot slot, double ttft_ms);
  void on_output_token(Slot slot, double gap_ms);
  void on_drafted(Slot slot, std::size_t drafted, std::size_t accepted) {
    add(slot, kDrafted, drafted);
    add(slot, kAccepted, accepted);
  }
  void on_preempted(Slot slot) { add(slot, kPreemptions, 1); }
  void on_demoted(Slot slot) { add(slot, kDemotions, 1); }  // after on_preempted()
  void on_ended(Slot slot, Outcome outcome, bool was_running, double total_ms);

  struct Span {
    double uptime_s = 0;
    double window_s = 0;
    Slot first_slot = 0;  // of the window
    Slot last_slot = 0;
  };
  // Of what several recorded together; `each`, where it is not null, is given the counts of each, which add up to it.
  static RequestStats snapshot(std::span<const RequestRecorder* const> all, const Span& span,
                               std::span<const std::string> tier_names, std::vector<RequestStats>* each = nullptr);

 private:
  static constexpr std::size_t kOutcomes = 4;
  // In the order in which they are read.
  enum Counter : std::size_t {
    kEndedRunning = 0,  // and one for each other outcome
    kEndedWaiting = kEndedRunning + kOutcomes,
    kStarted = kEndedWaiting + kOutcomes,
    kComputed,
    kRecomputed,
    kAccepted,
    kOutput,
    kDrafted,
    kDemotions,
    kPreemptions,
    kReused,  // from the hot arena, and from each tier
    kCounters = kReused + 1 + kMostTiers,
  };
  using Counters = std::array<std::atomic<std::uint64_t>, kCounters>;
  using Values = std::array<std::uint64_t, kCounters>;

  // A latency since the beginning and in the window.
  class Latency {
   public:
    void add(Slot slot, double milliseconds);
    static LatencyStats ever(std::span<const Latency* const> all);
    static LatencyStats since(std::span<const Latency* const> all, Slot first);

   private:
    struct State {
      LatencyHistogram::Mark before;
      std::atomic<std::uint64_t> max_ns = 0;  // in the slot
    };
    LatencyHistogram all_;
    WindowMarks<State> marks_;
  };

  struct Arrivals {
    std::uint64_t queued = 0, rejected = 0, retries = 0;
    Arrivals& operator+=(const Arrivals& other);
  };
  // count(counter): how far it has come, or what it counted in the window.
  template <class Count>
  Arrivals arrivals(const Count& count) const;
  static void set_arrivals(RequestFigures& figures, const Arrivals& arrivals);
  void add(Slot slot, std::size_t counter, std::uint64_t by);
  static Values values_of(const Counters& counters);
  // Without rates and latencies.
  static RequestStats stats_of(const Values& values, const Arrivals& arrivals, std::span<const std::string> tier_names);
  static RequestFigures figures_of(const Values& values, std::span<const std::string> tier_names);
  static void set_rates(RequestFigures& figures, double seconds);

  Counters counters_{};
  WindowMarks<Counters> marks_;
  // First attempts, and those that were made again: each is counted in one place, which is read once, so that no reader
  // finds more retries than requests, however long it or a writer is held up.
  struct Attempts {
    SharedCounter first, again;
  };
  Attempts queued_, rejected_;
  Latency queue_, ttft_, per_token_, total_;
};

}  // namespace tiercel
