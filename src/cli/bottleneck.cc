#include "cli/bottleneck.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace tiercel::cli {
namespace {

bool had(const CheckReport& report, StatusCode code) {
  return std::ranges::any_of(report.phases, [code](const PhaseRecord& phase) {
    return std::ranges::any_of(phase.requests, [code](const RequestRecord& request) { return request.code == code; });
  });
}

// How many requests of the phase the KV cache has room for at a time. A running request is promised all it may need.
double places_in_memory(const CheckReport& report, const PhaseRecord& phase) {
  const double tokens =
      phase.mean_tokens(&RequestRecord::prompt_tokens) + phase.mean_tokens(&RequestRecord::output_tokens);
  const double blocks = std::ceil(tokens / report.info.block_tokens);
  const auto block_bytes = static_cast<double>(report.info.kv_token_bytes * report.info.block_tokens);
  return static_cast<double>(report.memory.kv_capacity_bytes) / std::max(1., blocks * block_bytes);
}

// What is left of a phase's time is waiting for a place, which memory or the engine's speed does not give.
Bottleneck bottleneck_of_phase(const CheckReport& report, const PhaseRecord& phase, std::uint32_t concurrency) {
  const auto times = times_ms(phase);
  const Bottleneck most = std::ranges::max_element(times, {}, [](const auto& time) { return time.second; })->first;
  const double places = std::min(concurrency, report.options.max_batch_sequences);
  return most == Bottleneck::Queue && places_in_memory(report, phase) < places ? Bottleneck::Memory : most;
}

std::string more_room(const CheckReport& report) {
  return fmt::format("cache.capacity_bytes (now {}): more", readable_bytes(report.options.cache.capacity_bytes));
}

std::string advice_for_compute(const CheckReport& report, std::string_view otherwise) {
  if (report.info.threads < report.cores) {
    return fmt::format("threads (now {} of {} cores): {}", report.info.threads, report.cores, report.cores);
  }
  if (report.options.compute == Compute::Precise) return "compute (now precise): fast";
  return fmt::format("no option: all {} cores compute; {}", report.info.threads, otherwise);
}

std::string advice_for_queue(const CheckReport& report) {
  const EngineOptions& options = report.options;
  const std::uint32_t concurrency = report.shape.concurrency;
  if (had(report, StatusCode::Rejected) && options.max_queued_requests < concurrency) {
    return fmt::format("max_queued_requests (now {}): at least {}", options.max_queued_requests, concurrency);
  }
  if (options.max_batch_sequences < concurrency) {
    return fmt::format("max_batch_sequences (now {}): {}", options.max_batch_sequences, concurrency);
  }
  if (report.info.threads < report.cores) return advice_for_compute(report, {});
  return fmt::format("target_step_ms (now {}) and max_batch_tokens (now {}): higher, so that more prompts enter a step",
                     options.target_step_ms, options.max_batch_tokens);
}

// Of what the process holds, the largest part that an option makes smaller.
std::string advice_for_less_memory(const CheckReport& report) {
  const MemoryStats& memory = report.memory;
  const KvCacheOptions& cache = report.options.cache;
  const std::size_t weights = memory.weights_bytes + memory.mapped_weights_bytes;
  const std::size_t kv = memory.kv_leased_bytes + memory.kv_cached_bytes;
  const std::size_t most = std::max({kv, cache.memory_tier_bytes, memory.workspace_bytes});
  if (most < weights / 4) {
    return fmt::format("no option: weights take {}; a smaller model, or more memory", readable_bytes(weights));
  }
  if (most == cache.memory_tier_bytes) {
    return fmt::format("cache.memory_tier_bytes (now {}): less", readable_bytes(most));
  }
  if (most == memory.workspace_bytes) {
    return fmt::format("max_batch_tokens (now {}): less; the workspace of a step takes {}",
                       report.options.max_batch_tokens, readable_bytes(most));
  }
  return fmt::format("cache.capacity_bytes (now {}): less; KV takes {}, weights {}",
                     readable_bytes(cache.capacity_bytes), readable_bytes(kv), readable_bytes(weights));
}

}  // namespace

std::string_view to_string(Bottleneck bottleneck) {
  switch (bottleneck) {
    case Bottleneck::Queue: return "queue";
    case Bottleneck::Prefill: return "prefill";
    case Bottleneck::Decode: return "decode";
    case Bottleneck::Load: return "load";
    case Bottleneck::Memory: return "memory";
  }
  return "";
}

std::vector<std::pair<Bottleneck, double>> times_ms(const PhaseRecord& phase) {
  const double queue_ms = phase.mean(&RequestRecord::queue_ms);
  const double ttft_ms = phase.mean(&RequestRecord::ttft_ms);
  const double load_ms = std::min(phase.load_ms, queue_ms);  // a prompt waits for what a tier loads
  return {{Bottleneck::Queue, queue_ms - load_ms},
          {Bottleneck::Load, load_ms},
          {Bottleneck::Prefill, ttft_ms - queue_ms},
          {Bottleneck::Decode, phase.mean(&RequestRecord::total_ms) - ttft_ms}};
}

Bottleneck bottleneck_of(const CheckReport& report, std::string_view key) {
  if (key == "memory_percent") return Bottleneck::Memory;
  if (key == "hit_percent") {
    const PhaseRecord& shared = report.phase("shared");
    if (shared.recomputed_share > .05) return Bottleneck::Load;
    return shared.evicted_blocks > 0 ? Bottleneck::Memory : Bottleneck::Prefill;
  }
  if (key == "error_percent")
    return had(report, StatusCode::ResourceExhausted) ? Bottleneck::Memory : Bottleneck::Queue;
  if (key == "requests_per_s") {
    return bottleneck_of_phase(report, report.phase("together"), report.shape.concurrency);
  }
  return bottleneck_of_phase(report, report.phase("alone"), 1);
}

std::string advice_for(const CheckReport& report, std::string_view key, Bottleneck bottleneck) {
  const KvCacheOptions& cache = report.options.cache;
  const bool is_hit_rate = key == "hit_percent";
  if (!cache.prefix_reuse && (is_hit_rate || bottleneck == Bottleneck::Prefill)) {
    return "cache.prefix_reuse (now false): true";
  }
  switch (bottleneck) {
    case Bottleneck::Queue: return advice_for_queue(report);
    case Bottleneck::Load:
      if (cache.memory_tier_bytes == 0) {
        return "cache.memory_tier_bytes (now none): some; memory gives blocks back sooner than a disk";
      }
      return more_room(report) + "; what stays in it is not loaded";
    case Bottleneck::Memory:
      if (key == "memory_percent") return advice_for_less_memory(report);
      return more_room(report) + (is_hit_rate && cache.memory_tier_bytes == 0 ? ", or cache.memory_tier_bytes" : "");
    case Bottleneck::Prefill:
      if (is_hit_rate) {
        return fmt::format(
            "no option: nothing was evicted; longer common beginnings, or cache.block_tokens (now {}) smaller",
            cache.block_tokens);
      }
      return advice_for_compute(report, "shorter prompts, a smaller model or a faster machine");
    case Bottleneck::Decode: return advice_for_compute(report, "fewer tokens out, a smaller model or a faster machine");
  }
  return {};
}

}  // namespace tiercel::cli
