// Drives the production cache with a trace: the same index, promises, leases and eviction policy as in the engine, one
// request after the other. Each block of the trace is a block of one token there, so nothing is computed and little is
// stored, but keys are chained and contents compared as ever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "replay/trace.h"
#include "tiercel/eviction_policy.h"
#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel {

struct ReplayOptions {
  EvictionPolicyFactory eviction;   // empty: the cache's default
  std::size_t capacity_blocks = 1;  // 1 .. 2^30
  // So many requests behind the one at hand are waiting, and the cache is told: KvCache::expect().
  std::size_t queued_requests = 0;
  // Blocks of a tier below the cache, which every request waits for. 0: none.
  std::size_t tier_blocks = 0;
  WritePolicy tier_writes = KvCacheOptions().tier_writes;
};

struct ReplayResult {
  std::size_t capacity_blocks = 0;
  std::uint64_t requests = 0;
  std::uint64_t accesses = 0;    // blocks that the prompts asked for
  std::uint64_t hit_blocks = 0;  // of these, found
  std::uint64_t input_tokens = 0;
  std::uint64_t hit_tokens = 0;
  std::uint64_t evictions = 0;      // from the cache itself
  std::uint64_t loaded_blocks = 0;  // from the tier
  std::uint64_t stored_blocks = 0;  // written to it
  double wall_s = 0;                // without opening the cache

  double hit_rate() const;        // hit_blocks / accesses; 0 where nothing was asked for, as below
  double token_hit_rate() const;  // hit_tokens / input_tokens
  double evictions_per_s() const;
  double ns_per_access() const;  // all that a block costs: looked up, evicted, inserted, given back
};

// Called now and then with the requests done.
using ReplayProgress = std::function<void(std::size_t)>;

// A request of more blocks than the cache has is cut to those it has; the rest of its prompt is not found.
// InvalidArgument for a capacity out of range, Unavailable where the system gives no memory.
Result<ReplayResult> replay(const Trace& trace, const ReplayOptions& options, const ReplayProgress& progress = {});

}  // namespace tiercel
