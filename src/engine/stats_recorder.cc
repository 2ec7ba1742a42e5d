#include "engine/stats_recorder.h"

#include <algorithm>
#include <new>

namespace tiercel {
namespace {

constexpr std::string_view kOther = "other";

double seconds_of(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

StatsRecorder::StatsRecorder(StatsOptions options)
    : options_(std::move(options)),
      opened_(options_.now()),
      slot_length_(std::max<std::int64_t>(
          1, static_cast<std::int64_t>(options_.window_s * 1e9) / static_cast<std::int64_t>(kWindowSlots))) {
  owned_.reserve(endpoints_.size());
  owned_.push_back(std::make_unique<Endpoint>());
  endpoints_[0] = owned_.back().get();
  count_ = 1;
}

std::uint64_t StatsRecorder::slot_of(StatsOptions::Clock::time_point time) const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, (time - opened_) / slot_length_));
}

// ---- Endpoints

EndpointId StatsRecorder::find(std::string_view label) const {
  const std::size_t count = count_.load(std::memory_order_acquire);
  for (std::size_t i = 1; i < count; ++i) {
    if (endpoints_[i].load(std::memory_order_relaxed)->label == label) return static_cast<EndpointId>(i);
  }
  return kNoEndpoint;
}

EndpointId StatsRecorder::endpoint(std::string_view label) {
  if (label.empty()) return kNoEndpoint;
  if (label.size() > kMostEndpointBytes) label = kOther;
  if (const EndpointId known = find(label); known != kNoEndpoint) return known;
  const std::lock_guard lock(mutex_);
  const std::size_t count = count_.load(std::memory_order_relaxed);
  if (count > kMostEndpoints) label = kOther;
  if (const EndpointId known = find(label); known != kNoEndpoint) return known;  // added meanwhile
  try {
    owned_.push_back(std::make_unique<Endpoint>());
    owned_.back()->label = label;
  } catch (const std::bad_alloc&) {
    return kNoEndpoint;
  }
  endpoints_[count].store(owned_.back().get(), std::memory_order_relaxed);
  count_.store(count + 1, std::memory_order_release);
  return static_cast<EndpointId>(count);
}

// ---- Events

template <class Record>
void StatsRecorder::record(EndpointId endpoint, std::uint64_t slot, const Record& record) {
  record(endpoints_[0].load(std::memory_order_relaxed)->requests, slot);
  if (endpoint != kNoEndpoint) record(endpoints_[endpoint].load(std::memory_order_relaxed)->requests, slot);
}

void StatsRecorder::on_queued(EndpointId endpoint, std::uint32_t attempt) {
  record(endpoint, slot_of(options_.now()), [&](auto& requests, auto slot) { requests.on_queued(slot, attempt > 0); });
}

void StatsRecorder::on_rejected(EndpointId endpoint, std::uint32_t attempt) {
  record(endpoint, slot_of(options_.now()),
         [&](auto& requests, auto slot) { requests.on_rejected(slot, attempt > 0); });
}

void StatsRecorder::begin() { slot_ = std::max(slot_, slot_of(options_.now())); }

void StatsRecorder::on_started(EndpointId endpoint, ReusedByTier reused, double queue_ms) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_started(slot, reused, queue_ms); });
}

void StatsRecorder::on_prompt_tokens_found(EndpointId endpoint, std::size_t place, std::size_t tokens) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_prompt_tokens_found(slot, place, tokens); });
}

void StatsRecorder::on_prompt_tokens_computed(EndpointId endpoint, std::size_t computed, std::size_t recomputed) {
  record(endpoint, slot_,
         [&](auto& requests, auto slot) { requests.on_prompt_tokens_computed(slot, computed, recomputed); });
}

void StatsRecorder::on_first_output_token(EndpointId endpoint, double ttft_ms) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_first_output_token(slot, ttft_ms); });
}

void StatsRecorder::on_output_token(EndpointId endpoint, double gap_ms) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_output_token(slot, gap_ms); });
}

void StatsRecorder::on_drafted(EndpointId endpoint, std::size_t drafted, std::size_t accepted) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_drafted(slot, drafted, accepted); });
}

void StatsRecorder::on_preempted(EndpointId endpoint) {
  record(endpoint, slot_, [](auto& requests, auto slot) { requests.on_preempted(slot); });
}

void StatsRecorder::on_demoted(EndpointId endpoint) {
  record(endpoint, slot_, [](auto& requests, auto slot) { requests.on_demoted(slot); });
}

void StatsRecorder::on_ended(EndpointId endpoint, Outcome outcome, bool was_running, double total_ms) {
  record(endpoint, slot_, [&](auto& requests, auto slot) { requests.on_ended(slot, outcome, was_running, total_ms); });
}

void StatsRecorder::on_step(double seconds, double engine_cpu_s) {
  const auto add = [](std::atomic<std::uint64_t>& to, std::uint64_t value) {
    to.store(to.load(std::memory_order_relaxed) + value, std::memory_order_release);
  };
  engine_cpu_marks_.begin(slot_, [&](auto& before) {
    before.store(engine_cpu_ns_.load(std::memory_order_relaxed), std::memory_order_release);
  });
  add(steps_, 1);
  add(busy_ns_, static_cast<std::uint64_t>(std::max(0., seconds) * 1e9));
  engine_cpu_ns_.store(static_cast<std::uint64_t>(engine_cpu_s * 1e9), std::memory_order_release);
}

// ---- Reading

EngineStats StatsRecorder::snapshot() const {
  const auto now = options_.now();
  const std::uint64_t slot = slot_of(now), first = first_slot_of_window(slot);
  const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
  const RequestRecorder::Span span{.uptime_s = seconds(now - opened_),
                                   .window_s = seconds(now - opened_ - slot_length_ * static_cast<std::int64_t>(first)),
                                   .first_slot = first,
                                   .last_slot = slot};
  EngineStats stats;
  const std::size_t count = count_.load(std::memory_order_acquire);
  static_cast<RequestStats&>(stats) =
      endpoints_[0].load(std::memory_order_relaxed)->requests.snapshot(span, options_.tier_names);
  stats.endpoints.reserve(count - 1);
  for (std::size_t i = 1; i < count; ++i) {
    const Endpoint& endpoint = *endpoints_[i].load(std::memory_order_relaxed);
    EndpointStats& of_label = stats.endpoints.emplace_back();
    static_cast<RequestStats&>(of_label) = endpoint.requests.snapshot(span, options_.tier_names);
    of_label.endpoint = endpoint.label;
  }
  const std::uint64_t cpu_before_ns = engine_cpu_marks_.read_since(
      first, [](const auto* before) { return before ? before->load(std::memory_order_acquire) : UINT64_MAX; });
  const std::uint64_t cpu_ns = engine_cpu_ns_.load(std::memory_order_acquire);
  stats.steps = steps_.load(std::memory_order_acquire);
  stats.busy_s = seconds_of(busy_ns_.load(std::memory_order_acquire));
  stats.engine_cpu_s = seconds_of(cpu_ns);
  if (cpu_before_ns < cpu_ns) stats.engine_cores = seconds_of(cpu_ns - cpu_before_ns) / span.window_s;
  return stats;
}

}  // namespace tiercel
