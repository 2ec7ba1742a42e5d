#include "engine/stats_recorder.h"

namespace tiercel {

void StatsRecorder::on_rejected() {
  const std::lock_guard lock(mutex_);
  ++counters_.submitted;
  ++counters_.rejected;
}

void StatsRecorder::on_queued() {
  const std::lock_guard lock(mutex_);
  ++counters_.submitted;
  ++counters_.queued;
}

void StatsRecorder::on_started(std::size_t reused_tokens, double queue_ms) {
  const std::lock_guard lock(mutex_);
  --counters_.queued;
  ++counters_.running;
  counters_.reused_tokens += reused_tokens;
  queue_.add(queue_ms);
}

void StatsRecorder::on_prompt_tokens_joined(std::size_t tokens) {
  const std::lock_guard lock(mutex_);
  counters_.reused_tokens += tokens;
}

void StatsRecorder::on_prompt_tokens_computed(std::size_t tokens) {
  const std::lock_guard lock(mutex_);
  counters_.computed_prompt_tokens += tokens;
}

void StatsRecorder::on_first_output_token(double ttft_ms) {
  const std::lock_guard lock(mutex_);
  ++counters_.output_tokens;
  ttft_.add(ttft_ms);
}

void StatsRecorder::on_output_token(double gap_ms) {
  const std::lock_guard lock(mutex_);
  ++counters_.output_tokens;
  per_token_.add(gap_ms);
}

void StatsRecorder::on_ended(Outcome outcome, bool was_running, double total_ms) {
  const std::lock_guard lock(mutex_);
  --(was_running ? counters_.running : counters_.queued);
  switch (outcome) {
    case Outcome::Completed:
      ++counters_.completed;
      total_.add(total_ms);
      break;
    case Outcome::Failed: ++counters_.failed; break;
    case Outcome::Cancelled: ++counters_.cancelled; break;
  }
}

void StatsRecorder::on_step(double seconds) {
  const std::lock_guard lock(mutex_);
  ++counters_.steps;
  counters_.busy_s += seconds;
}

EngineStats StatsRecorder::snapshot() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = counters_;
  stats.prompt_tokens = stats.reused_tokens + stats.computed_prompt_tokens;
  if (stats.prompt_tokens > 0) {
    stats.hit_rate = static_cast<double>(stats.reused_tokens) / static_cast<double>(stats.prompt_tokens);
  }
  stats.uptime_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - opened_).count();
  if (stats.busy_s > 0) {
    stats.requests_per_s = static_cast<double>(stats.completed) / stats.busy_s;
    stats.output_tokens_per_s = static_cast<double>(stats.output_tokens) / stats.busy_s;
  }
  stats.queue = queue_.summary();
  stats.ttft = ttft_.summary();
  stats.per_token = per_token_.summary();
  stats.total = total_.summary();
  return stats;
}

}  // namespace tiercel
