// What holds in every snapshot of statistics, whenever it is taken.
#pragma once

#include <gtest/gtest.h>

#include "tiercel/stats.h"

namespace tiercel {

inline void expect_token_identities(const RequestFigures& f) {
  std::uint64_t found = 0;
  for (const TierHits& hits : f.hits) found += hits.tokens;
  EXPECT_EQ(f.reused_tokens, found);
  EXPECT_EQ(f.prompt_tokens, found + f.computed_prompt_tokens + f.recomputed_prompt_tokens);
  EXPECT_LE(f.retries, f.submitted);
  EXPECT_LE(f.demotions, f.preemptions);
  EXPECT_LE(f.accepted_tokens, f.drafted_tokens);
  EXPECT_LE(f.accepted_tokens, f.output_tokens);
  const auto expect_ordered = [](const LatencyStats& l) {
    EXPECT_TRUE(l.p50_ms <= l.p95_ms && l.p95_ms <= l.p99_ms && l.p99_ms <= l.p999_ms && l.p999_ms <= l.max_ms);
  };
  for (const LatencyStats* latency : {&f.queue, &f.ttft, &f.per_token, &f.total}) expect_ordered(*latency);
}

inline void expect_identities(const RequestStats& s) {
  EXPECT_EQ(s.submitted, s.completed + s.failed + s.timed_out + s.cancelled + s.rejected + s.queued + s.running);
  EXPECT_LE(s.queued + s.running, s.submitted) << "one of them is below 0";
  expect_token_identities(s);
  expect_token_identities(s.window);
  const RequestFigures& w = s.window;
  EXPECT_TRUE(w.submitted <= s.submitted && w.completed <= s.completed && w.failed <= s.failed &&
              w.timed_out <= s.timed_out && w.cancelled <= s.cancelled && w.rejected <= s.rejected &&
              w.retries <= s.retries && w.prompt_tokens <= s.prompt_tokens && w.output_tokens <= s.output_tokens &&
              w.total.count <= s.total.count && w.per_token.count <= s.per_token.count)
      << "more in the window than ever";
}

inline void expect_identities(const EngineStats& s) {
  expect_identities(static_cast<const RequestStats&>(s));
  for (const EndpointStats& endpoint : s.endpoints) {
    expect_identities(static_cast<const RequestStats&>(endpoint));
    EXPECT_FALSE(endpoint.endpoint.empty());
  }
  const MemoryStats& m = s.memory;
  EXPECT_EQ(m.kv_capacity_bytes, m.kv_leased_bytes + m.kv_cached_bytes + m.kv_free_bytes);
  if (m.limit_bytes > 0) {
    EXPECT_LE(m.limited_bytes, m.limit_bytes);
  }
  for (const KvTierStats& tier : s.tiers) {
    if (tier.store.capacity_bytes > 0) {
      EXPECT_LE(tier.store.stored_bytes, tier.store.capacity_bytes);
    }
  }
}

}  // namespace tiercel
