#include "engine/request_recorder.h"

#include <algorithm>
#include <cassert>
#include <functional>

namespace tiercel {

// ---- Writing

void RequestRecorder::Latency::add(Slot slot, double milliseconds) {
  marks_.begin(slot, [&](State& state) {
    all_.copy_to(state.before);
    state.max_ns.store(0, std::memory_order_release);
  });
  all_.add(milliseconds);
  std::atomic<std::uint64_t>& max_ns = marks_.current().max_ns;
  const std::uint64_t ns = LatencyHistogram::nanoseconds(milliseconds);
  if (ns > max_ns.load(std::memory_order_relaxed)) max_ns.store(ns, std::memory_order_release);
}

void RequestRecorder::add(Slot slot, std::size_t counter, std::uint64_t by) {
  marks_.begin(slot, [&](Counters& before) {
    for (std::size_t i = 0; i < kCounters; ++i) {
      before[i].store(counters_[i].load(std::memory_order_relaxed), std::memory_order_release);
    }
  });
  // This is the only thread that writes it.
  counters_[counter].store(counters_[counter].load(std::memory_order_relaxed) + by, std::memory_order_release);
}

void RequestRecorder::on_queued(Slot slot, bool retry) { (retry ? queued_.again : queued_.first).add(slot); }

void RequestRecorder::on_rejected(Slot slot, bool retry) { (retry ? rejected_.again : rejected_.first).add(slot); }

void RequestRecorder::on_started(Slot slot, ReusedByTier reused, double queue_ms) {
  assert(reused.size() <= 1 + kMostTiers);
  add(slot, kStarted, 1);
  for (std::size_t tier = 0; tier < reused.size(); ++tier) add(slot, kReused + tier, reused[tier].second);
  queue_.add(slot, queue_ms);
}

void RequestRecorder::on_prompt_tokens_computed(Slot slot, std::size_t computed, std::size_t recomputed) {
  add(slot, kComputed, computed);
  add(slot, kRecomputed, recomputed);
}

void RequestRecorder::on_first_output_token(Slot slot, double ttft_ms) {
  add(slot, kOutput, 1);
  ttft_.add(slot, ttft_ms);
}

void RequestRecorder::on_output_token(Slot slot, double gap_ms) {
  add(slot, kOutput, 1);
  per_token_.add(slot, gap_ms);
}

void RequestRecorder::on_ended(Slot slot, Outcome outcome, bool was_running, double total_ms) {
  add(slot, (was_running ? kEndedRunning : kEndedWaiting) + static_cast<std::size_t>(outcome), 1);
  if (outcome == Outcome::Completed) total_.add(slot, total_ms);
}

// ---- Reading

LatencyStats RequestRecorder::Latency::since(Slot first) const {
  return marks_.read_since(first, [&](const State* state) -> LatencyStats {
    if (state == nullptr) return {};
    std::uint64_t max_ns = 0;
    marks_.visit_since(first, [&](const State& in_slot) {
      max_ns = std::max(max_ns, in_slot.max_ns.load(std::memory_order_acquire));
    });
    return all_.summary_since(state->before, max_ns);
  });
}

RequestRecorder::Values RequestRecorder::values_of(const Counters& counters) {
  Values values;
  for (std::size_t i = 0; i < kCounters; ++i) values[i] = counters[i].load(std::memory_order_acquire);
  return values;
}

RequestFigures RequestRecorder::figures_of(const Values& values, std::span<const std::string> tier_names) {
  const auto ended = [&](Outcome outcome) {
    const auto place = static_cast<std::size_t>(outcome);
    return values[kEndedRunning + place] + values[kEndedWaiting + place];
  };
  RequestFigures figures{.completed = ended(Outcome::Completed),
                         .failed = ended(Outcome::Failed),
                         .timed_out = ended(Outcome::TimedOut),
                         .cancelled = ended(Outcome::Cancelled),
                         .computed_prompt_tokens = values[kComputed],
                         .recomputed_prompt_tokens = values[kRecomputed],
                         .output_tokens = values[kOutput],
                         .drafted_tokens = values[kDrafted],
                         .accepted_tokens = values[kAccepted],
                         .preemptions = values[kPreemptions],
                         .demotions = values[kDemotions]};
  figures.hits.reserve(tier_names.size() + 1);
  for (std::size_t i = 0; i <= tier_names.size(); ++i) {
    figures.hits.push_back({.tier = i == 0 ? "hot" : tier_names[i - 1], .tokens = values[kReused + i]});
    figures.reused_tokens += values[kReused + i];
  }
  figures.prompt_tokens = figures.reused_tokens + figures.computed_prompt_tokens + figures.recomputed_prompt_tokens;
  return figures;
}

template <class Count>
RequestRecorder::Arrivals RequestRecorder::arrivals(const Count& count) const {
  const std::uint64_t queued_again = count(queued_.again), rejected_again = count(rejected_.again);
  return {.queued = count(queued_.first) + queued_again,
          .rejected = count(rejected_.first) + rejected_again,
          .retries = queued_again + rejected_again};
}

void RequestRecorder::set_arrivals(RequestFigures& figures, const Arrivals& arrivals) {
  figures.submitted = arrivals.queued + arrivals.rejected;
  figures.rejected = arrivals.rejected;
  figures.retries = arrivals.retries;
}

void RequestRecorder::set_rates(RequestFigures& figures, double seconds) {
  const auto share = [](std::uint64_t part, double whole) { return whole > 0 ? static_cast<double>(part) / whole : 0; };
  const auto ended = static_cast<double>(figures.completed + figures.failed + figures.timed_out + figures.cancelled +
                                         figures.rejected);
  figures.seconds = seconds;
  figures.error_rate = share(figures.failed, ended);
  figures.timeout_rate = share(figures.timed_out, ended);
  figures.cancel_rate = share(figures.cancelled, ended);
  figures.rejection_rate = share(figures.rejected, ended);
  figures.retry_rate = share(figures.retries, static_cast<double>(figures.submitted));
  const auto prompt_tokens = static_cast<double>(figures.prompt_tokens);
  figures.hit_rate = share(figures.reused_tokens, prompt_tokens);
  for (TierHits& hits : figures.hits) hits.rate = share(hits.tokens, prompt_tokens);
  figures.requests_per_s = share(figures.completed, seconds);
  figures.prompt_tokens_per_s = share(figures.prompt_tokens, seconds);
  figures.output_tokens_per_s = share(figures.output_tokens, seconds);
}

RequestStats RequestRecorder::snapshot(const Span& span, std::span<const std::string> tier_names) const {
  // What came lately first, then all, so that the former is never more; and arrivals last.
  Values before{}, in_window{};
  const bool something = marks_.read_since(span.first_slot, [&](const Counters* mark) {
    if (mark != nullptr) before = values_of(*mark);
    return mark != nullptr;
  });
  RequestStats stats;
  RequestFigures& window = stats.window;
  const Arrivals lately =
      arrivals([&](const SharedCounter& counter) { return counter.between(span.first_slot, span.last_slot); });
  const Values values = values_of(counters_);
  if (something) std::ranges::transform(values, before, in_window.begin(), std::minus());
  window = figures_of(in_window, tier_names);
  set_arrivals(window, lately);
  window.queue = queue_.since(span.first_slot);
  window.ttft = ttft_.since(span.first_slot);
  window.per_token = per_token_.since(span.first_slot);
  window.total = total_.since(span.first_slot);
  set_rates(window, span.window_s);

  static_cast<RequestFigures&>(stats) = figures_of(values, tier_names);
  stats.queue = queue_.all();
  stats.ttft = ttft_.all();
  stats.per_token = per_token_.all();
  stats.total = total_.all();
  const Arrivals ever = arrivals([](const SharedCounter& counter) { return counter.total(); });
  set_arrivals(stats, ever);
  std::uint64_t ended_running = 0, ended_waiting = 0;
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    ended_running += values[kEndedRunning + i];
    ended_waiting += values[kEndedWaiting + i];
  }
  stats.running = values[kStarted] - ended_running;
  stats.queued = ever.queued - values[kStarted] - ended_waiting;
  set_rates(stats, span.uptime_s);
  return stats;
}

}  // namespace tiercel
