// What the engine did and holds. Counters are kept without locks and read without stopping anybody, so a snapshot is
// not one moment: it may miss what happens while it is taken. But it never sees the end of something without its
// beginning, so these hold in every snapshot, for the engine and for each endpoint:
//
//   submitted         = completed + failed + timed_out + cancelled + rejected + queued + running
//   reused_tokens     = sum of hits[i].tokens
//   prompt_tokens     = reused_tokens + computed_prompt_tokens + recomputed_prompt_tokens
//   kv_capacity_bytes = kv_leased_bytes + kv_cached_bytes + kv_free_bytes
//
// A request has exactly one outcome, and each of its prompt tokens is counted once, when it is computed or reused for
// the first time, whatever the request goes through (several choices, preemption).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tiercel/tier_store.h"

namespace tiercel {

// Latencies in milliseconds. Percentiles come from a log-linear histogram, within 1 %; mean and maximum are exact.
struct LatencyStats {
  std::uint64_t count = 0;
  double mean_ms = 0;
  double p50_ms = 0;
  double p95_ms = 0;
  double p99_ms = 0;
  double p999_ms = 0;
  double max_ms = 0;
};

struct TierHits {
  std::string tier = {};     // "hot", then the tiers by name, fastest first
  std::uint64_t tokens = 0;  // of prompts, whose KV was there when the request came
  double rate = 0;           // of prompt_tokens
};

// What happened within a span of time.
struct RequestFigures {
  double seconds = 0;  // the span

  std::uint64_t submitted = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;     // with a status that is none of the below
  std::uint64_t timed_out = 0;  // DeadlineExceeded
  std::uint64_t cancelled = 0;  // by the caller, or by the engine's end
  std::uint64_t rejected = 0;   // at the door: bad request, full queue, closed engine
  std::uint64_t retries = 0;    // of those submitted, repeated attempts (Request::attempt)
  // Shares of those that ended in the span, rejected ones included; the last one of those submitted.
  double error_rate = 0;
  double timeout_rate = 0;
  double cancel_rate = 0;
  double rejection_rate = 0;
  double retry_rate = 0;

  std::uint64_t prompt_tokens = 0;
  std::uint64_t reused_tokens = 0;           // their KV was in the cache
  std::uint64_t computed_prompt_tokens = 0;  // it was nowhere, or computing it was expected to be faster than loading
  // It was computed although a load of it from a tier had begun: the load failed, met damage, or took too long, or its
  // blocks had to go again before their request had room.
  std::uint64_t recomputed_prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t drafted_tokens = 0;   // guessed ahead and computed (EngineOptions::speculation)
  std::uint64_t accepted_tokens = 0;  // of these, that were drawn: so many fewer steps of their sequences
  double hit_rate = 0;                // reused_tokens / prompt_tokens; 0 before the first prompt
  std::vector<TierHits> hits = {};

  double requests_per_s = 0;  // completed
  double prompt_tokens_per_s = 0;
  double output_tokens_per_s = 0;

  // Requests that left the batch for one of higher priority, and those of them whose KV was brought to a tier for it.
  std::uint64_t preemptions = 0;
  std::uint64_t demotions = 0;

  LatencyStats queue = {};      // arrival to first step
  LatencyStats ttft = {};       // arrival to first output token
  LatencyStats per_token = {};  // between two output tokens of one choice
  LatencyStats total = {};      // arrival to end, of completed requests
};

// Since the engine opened, and lately.
struct RequestStats : RequestFigures {
  std::uint64_t queued = 0;   // now
  std::uint64_t running = 0;  // now
  // The last EngineOptions::stats_window_ms, up to a sixth less: it moves on in sixths.
  RequestFigures window = {};
};

// Of the requests with one label.
struct EndpointStats : RequestStats {
  std::string endpoint = {};  // Request::endpoint, or "other"
};

struct MemoryStats {
  std::size_t limit_bytes = 0;           // EngineOptions::memory_limit_bytes; 0: none
  std::size_t limited_bytes = 0;         // most that what it counts may come to: weights, KV, workspace, memory tier
  std::size_t weights_bytes = 0;         // packed weights that tiercel allocated
  std::size_t mapped_weights_bytes = 0;  // weights used in place from the mapped model file
  std::size_t kv_capacity_bytes = 0;     // the hot arena
  std::size_t kv_leased_bytes = 0;       // of it, held by running requests
  std::size_t kv_cached_bytes = 0;       // of it, cached prefixes
  std::size_t kv_free_bytes = 0;         // of it, empty
  std::size_t kv_metadata_bytes = 0;     // the prefix index
  std::size_t workspace_bytes = 0;       // activations and logits of a step
  std::size_t resident_bytes = 0;        // of the whole process, as the system counts it; 0 where unknown
};

// What tiers of one medium moved. Each tier's own is in EngineStats::tiers.
struct IoStats {
  std::uint64_t read_bytes = 0;  // as stored
  std::uint64_t read_blocks = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t written_blocks = 0;
  std::uint64_t errors = 0;
};

// As the system counts it, since the process began; 0 where it does not.
struct ProcessStats {
  double cpu_s = 0;                   // of all its threads
  std::uint64_t disk_read_bytes = 0;  // that came from a device, not from the page cache
  std::uint64_t disk_written_bytes = 0;
};

// A part of the engine's steps (EngineOptions::profile_steps).
struct PartTime {
  std::string name = {};  // idle, schedule, cache, the model's layers by kind, sample, answer
  double seconds = 0;
  // The least that this machine takes for it: its multiplications at the fastest that the processor's instructions for
  // their type reach, or its bytes at the speed of memory, whichever takes longer. 0: nothing is known.
  double bound_s = 0;
};

// One of EngineOptions::replicas: what of the figures of all is its own.
struct ReplicaStats {
  std::uint64_t submitted = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;
  std::uint64_t queued = 0;   // now
  std::uint64_t running = 0;  // now
  std::uint64_t prompt_tokens = 0;
  std::uint64_t reused_tokens = 0;
  std::uint64_t output_tokens = 0;
  double hit_rate = 0;
  std::uint64_t steps = 0;
  double busy_s = 0;
  std::size_t kv_capacity_bytes = 0;  // = leased + cached + free
  std::size_t kv_leased_bytes = 0;
  std::size_t kv_cached_bytes = 0;
  // False: its last steps failed, or one does not end. New requests go to others, as long as there are any.
  bool available = true;
};

struct EngineStats : RequestStats {
  std::vector<EndpointStats> endpoints = {};  // in the order in which their labels came
  std::vector<ReplicaStats> replicas = {};    // their figures add up to those of the engine

  std::vector<PartTime> profile = {};  // since the engine opened; empty unless asked for
  std::uint64_t steps = 0;
  double busy_s = 0;  // with a step running, of all replicas together
  // Of the threads that compute steps, as of the last one; and the cores that this was in the window.
  double engine_cpu_s = 0;
  double engine_cores = 0;
  ProcessStats process = {};

  std::uint64_t evicted_blocks = 0;
  std::uint64_t prefetched_useful_blocks = 0;  // loaded from a tier and then found by a request
  std::uint64_t prefetched_wasted_blocks = 0;  // loaded and gone before any request found them
  std::vector<KvTierStats> tiers = {};         // below the hot arena, fastest first; with bytes against capacity
  IoStats disk = {};
  IoStats network = {};
  MemoryStats memory = {};
};

// What was opened and how it is computed; fixed after open.
struct EngineInfo {
  std::string model_path = {};
  std::string model_name = {};
  std::string architecture = {};
  std::uint64_t parameters = 0;
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t vocabulary = 0;
  std::uint32_t context_tokens = 0;
  bool has_chat_template = false;
  std::string kv_dtype = {};
  std::uint32_t block_tokens = 0;
  std::size_t kv_token_bytes = 0;
  std::uint32_t replicas = 1;
  std::uint32_t threads = 0;   // of all replicas together
  std::string device = "cpu";  // where the model is computed: "cpu", or the GPU's name
  std::string cpu = {};        // name as the processor gives it
  std::string simd = {};       // instruction set that the kernels dispatch to
  double load_ms = 0;
  // Linear layer -> "Q4_1 groups by int8", or what the measurement at load chose.
  std::vector<std::pair<std::string, std::string>> linear_kernels = {};
};

}  // namespace tiercel
