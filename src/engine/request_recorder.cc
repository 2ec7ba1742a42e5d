#include "engine/request_recorder.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <vector>

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

LatencyStats RequestRecorder::Latency::ever(std::span<const Latency* const> all) {
  std::vector<const LatencyHistogram*> histograms;
  for (const Latency* one : all) histograms.push_back(&one->all_);
  return LatencyHistogram::summary_of(histograms);
}

LatencyStats RequestRecorder::Latency::since(std::span<const Latency* const> all, Slot first) {
  std::vector<const WindowMarks<State>*> marks;
  for (const Latency* one : all) marks.push_back(&one->marks_);
  return WindowMarks<State>::read_all_since(marks, first, [&](std::span<const State* const> states) {
    std::vector<LatencyHistogram::Since> added;
    std::uint64_t max_ns = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (states[i] == nullptr) continue;
      added.push_back({.histogram = &all[i]->all_, .mark = &states[i]->before});
      all[i]->marks_.visit_since(first, [&](const State& in_slot) {
        max_ns = std::max(max_ns, in_slot.max_ns.load(std::memory_order_acquire));
      });
    }
    return LatencyHistogram::summary_since(added, max_ns);
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

RequestRecorder::Arrivals& RequestRecorder::Arrivals::operator+=(const Arrivals& other) {
  queued += other.queued;
  rejected += other.rejected;
  retries += other.retries;
  return *this;
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

RequestStats RequestRecorder::stats_of(const Values& values, const Arrivals& arrivals,
                                       std::span<const std::string> tier_names) {
  RequestStats stats;
  static_cast<RequestFigures&>(stats) = figures_of(values, tier_names);
  set_arrivals(stats, arrivals);
  std::uint64_t ended_running = 0, ended_waiting = 0;
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    ended_running += values[kEndedRunning + i];
    ended_waiting += values[kEndedWaiting + i];
  }
  stats.running = values[kStarted] - ended_running;
  stats.queued = arrivals.queued - values[kStarted] - ended_waiting;
  return stats;
}

RequestStats RequestRecorder::snapshot(std::span<const RequestRecorder* const> all, const Span& span,
                                       std::span<const std::string> tier_names, std::vector<RequestStats>* each) {
  std::vector<const WindowMarks<Counters>*> marks;
  std::array<std::vector<const Latency*>, 4> latencies;
  for (const RequestRecorder* one : all) {
    marks.push_back(&one->marks_);
    std::size_t i = 0;
    for (const Latency* latency : {&one->queue_, &one->ttft_, &one->per_token_, &one->total_}) {
      latencies[i++].push_back(latency);
    }
  }
  const auto& [queue, ttft, per_token, total] = latencies;
  const auto add = [](Values& sum, const Values& values) {
    std::ranges::transform(sum, values, sum.begin(), std::plus());
  };
  // What came lately first, then all, so that the former is never more; and arrivals last.
  std::vector<bool> something;
  const Values before = WindowMarks<Counters>::read_all_since(marks, span.first_slot, [&](auto states) {
    Values sum{};
    something.assign(states.size(), false);
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (states[i] == nullptr) continue;
      something[i] = true;
      add(sum, values_of(*states[i]));
    }
    return sum;
  });
  Arrivals lately, ever;
  for (const RequestRecorder* one : all) {
    lately +=
        one->arrivals([&](const SharedCounter& counter) { return counter.between(span.first_slot, span.last_slot); });
  }
  std::vector<Values> values;
  for (const RequestRecorder* one : all) values.push_back(values_of(one->counters_));
  Values sum{}, since{}, in_window{};
  for (std::size_t i = 0; i < all.size(); ++i) {
    add(sum, values[i]);
    if (something[i]) add(since, values[i]);
  }
  std::ranges::transform(since, before, in_window.begin(), std::minus());
  RequestFigures window = figures_of(in_window, tier_names);
  set_arrivals(window, lately);
  window.queue = Latency::since(queue, span.first_slot);
  window.ttft = Latency::since(ttft, span.first_slot);
  window.per_token = Latency::since(per_token, span.first_slot);
  window.total = Latency::since(total, span.first_slot);
  set_rates(window, span.window_s);
  const LatencyStats latency[] = {Latency::ever(queue), Latency::ever(ttft), Latency::ever(per_token),
                                  Latency::ever(total)};

  for (std::size_t i = 0; i < all.size(); ++i) {
    const Arrivals of_one = all[i]->arrivals([](const SharedCounter& counter) { return counter.total(); });
    ever += of_one;
    if (each == nullptr) continue;
    set_rates(each->emplace_back(stats_of(values[i], of_one, tier_names)), span.uptime_s);
  }
  RequestStats stats = stats_of(sum, ever, tier_names);
  stats.window = std::move(window);
  stats.queue = latency[0];
  stats.ttft = latency[1];
  stats.per_token = latency[2];
  stats.total = latency[3];
  set_rates(stats, span.uptime_s);
  return stats;
}

}  // namespace tiercel
