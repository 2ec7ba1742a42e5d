// What the engine did and holds, as one consistent snapshot.
//
// Identities that hold in every snapshot:
//   prompt_tokens = reused_tokens + computed_prompt_tokens      (of requests that entered the batch)
//   submitted = completed + failed + cancelled + rejected + queued + running
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tiercel/tier_store.h"

namespace tiercel {

// Latencies in milliseconds, of completed requests since the engine opened. Percentiles come from a log-linear
// histogram with at most 1 % error.
struct LatencyStats {
  std::uint64_t count = 0;
  double mean_ms = 0;
  double p50_ms = 0;
  double p95_ms = 0;
  double p99_ms = 0;
  double max_ms = 0;
};

struct MemoryStats {
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

struct EngineStats {
  std::uint64_t submitted = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;  // ended with another status than the two below
  std::uint64_t cancelled = 0;
  std::uint64_t rejected = 0;  // refused at the door: bad request or full queue
  std::uint64_t queued = 0;    // now
  std::uint64_t running = 0;   // now

  std::uint64_t prompt_tokens = 0;
  std::uint64_t reused_tokens = 0;
  std::uint64_t computed_prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  double hit_rate = 0;  // reused_tokens / prompt_tokens; 0 before the first prompt

  double uptime_s = 0;
  double busy_s = 0;               // of it, with a step running
  double requests_per_s = 0;       // completed / busy_s
  double output_tokens_per_s = 0;  // output_tokens / busy_s
  std::uint64_t steps = 0;

  LatencyStats queue = {};      // arrival to first step
  LatencyStats ttft = {};       // arrival to first output token
  LatencyStats per_token = {};  // gap between output tokens of one request
  LatencyStats total = {};      // arrival to end

  std::uint64_t evicted_blocks = 0;
  std::uint64_t prefetched_useful_blocks = 0;  // loaded from a tier and then found by a request
  std::uint64_t prefetched_wasted_blocks = 0;  // loaded and gone before any request found them
  std::vector<KvTierStats> tiers = {};         // below the hot arena, fastest first
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
  std::uint32_t threads = 0;
  std::string cpu = {};   // name as the processor gives it
  std::string simd = {};  // instruction set that the kernels dispatch to
  double load_ms = 0;
  // Linear layer -> "1-12 rows q4_1 in place, 13+ rows bf16": what the measurement at load chose.
  std::vector<std::pair<std::string, std::string>> linear_kernels = {};
};

}  // namespace tiercel
