#include "engine/stats_recorder.h"

#include <algorithm>
#include <new>

namespace tiercel {
namespace {

double seconds_of(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

StatsRecorder::StatsRecorder(StatsOptions options)
    : options_(std::move(options)),
      labels_(options_.labels ? options_.labels : std::make_shared<EndpointLabels>()),
      opened_(options_.opened.value_or(options_.now())),
      slot_length_(std::max<std::int64_t>(
          1, static_cast<std::int64_t>(options_.window_s * 1e9) / static_cast<std::int64_t>(kWindowSlots))) {
  owned_.reserve(endpoints_.size());
  owned_.push_back(std::make_unique<RequestRecorder>());
  endpoints_[kNoEndpoint] = owned_.back().get();
}

std::uint64_t StatsRecorder::slot_of(StatsOptions::Clock::time_point time) const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, (time - opened_) / slot_length_));
}

// ---- Endpoints

EndpointId StatsRecorder::endpoint(std::string_view label) {
  const EndpointId id = labels_->id(label);
  if (endpoints_[id].load(std::memory_order_acquire) != nullptr) return id;
  const std::lock_guard lock(mutex_);
  if (endpoints_[id].load(std::memory_order_relaxed) != nullptr) return id;  // added meanwhile
  try {
    owned_.push_back(std::make_unique<RequestRecorder>());
  } catch (const std::bad_alloc&) {
    return kNoEndpoint;
  }
  endpoints_[id].store(owned_.back().get(), std::memory_order_release);
  return id;
}

// ---- Events

template <class Record>
void StatsRecorder::record(EndpointId endpoint, std::uint64_t slot, const Record& record) {
  record(*endpoints_[kNoEndpoint].load(std::memory_order_acquire), slot);
  if (endpoint != kNoEndpoint) record(*endpoints_[endpoint].load(std::memory_order_acquire), slot);
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
  const StatsRecorder* const self = this;
  return snapshot({&self, 1});
}

EngineStats StatsRecorder::snapshot(std::span<const StatsRecorder* const> all) {
  const StatsRecorder& first = *all.front();
  const auto now = first.options_.now();
  const std::uint64_t slot = first.slot_of(now), first_slot = first_slot_of_window(slot);
  const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
  const auto window_began = first.opened_ + first.slot_length_ * static_cast<std::int64_t>(first_slot);
  const RequestRecorder::Span span{.uptime_s = seconds(now - first.opened_),
                                   .window_s = seconds(now - window_began),
                                   .first_slot = first_slot,
                                   .last_slot = slot};
  const std::vector<std::string>& tier_names = first.options_.tier_names;
  std::vector<const RequestRecorder*> recorders;
  const auto find_recorders = [&](std::size_t id) {
    recorders.clear();
    for (const StatsRecorder* one : all) {
      if (const auto* recorder = one->endpoints_[id].load(std::memory_order_acquire)) recorders.push_back(recorder);
    }
  };
  EngineStats stats;
  const std::size_t ids = first.labels_->count();
  find_recorders(kNoEndpoint);
  std::vector<RequestStats> each;
  static_cast<RequestStats&>(stats) = RequestRecorder::snapshot(recorders, span, tier_names, &each);
  stats.endpoints.reserve(ids - 1);
  for (std::size_t id = 1; id < ids; ++id) {
    find_recorders(id);
    if (recorders.empty()) continue;
    EndpointStats& of_label = stats.endpoints.emplace_back();
    static_cast<RequestStats&>(of_label) = RequestRecorder::snapshot(recorders, span, tier_names);
    of_label.endpoint = first.labels_->label(static_cast<EndpointId>(id));
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const StatsRecorder& one = *all[i];
    const std::uint64_t cpu_before_ns = one.engine_cpu_marks_.read_since(
        first_slot, [](const auto* before) { return before ? before->load(std::memory_order_acquire) : UINT64_MAX; });
    const std::uint64_t cpu_ns = one.engine_cpu_ns_.load(std::memory_order_acquire);
    const std::uint64_t steps = one.steps_.load(std::memory_order_acquire);
    const double busy_s = seconds_of(one.busy_ns_.load(std::memory_order_acquire));
    stats.steps += steps;
    stats.busy_s += busy_s;
    stats.engine_cpu_s += seconds_of(cpu_ns);
    if (cpu_before_ns < cpu_ns) stats.engine_cores += seconds_of(cpu_ns - cpu_before_ns) / span.window_s;
    stats.replicas.push_back({.submitted = each[i].submitted,
                              .completed = each[i].completed,
                              .failed = each[i].failed,
                              .queued = each[i].queued,
                              .running = each[i].running,
                              .prompt_tokens = each[i].prompt_tokens,
                              .reused_tokens = each[i].reused_tokens,
                              .output_tokens = each[i].output_tokens,
                              .hit_rate = each[i].hit_rate,
                              .steps = steps,
                              .busy_s = busy_s});
  }
  return stats;
}

}  // namespace tiercel
