#include "cli/bottleneck.h"

#include <gtest/gtest.h>

namespace tiercel::cli {
namespace {

struct Times {
  double queue_ms = 0, prefill_ms = 0, decode_ms = 0;
};

PhaseRecord phase(const std::string& name, const Times& times, double load_ms = 0) {
  PhaseRecord record{.name = name, .work = {}, .requests = {}, .load_ms = load_ms};
  for (int i = 0; i < 10; ++i) {
    record.requests.push_back({.queue_ms = times.queue_ms,
                               .ttft_ms = times.queue_ms + times.prefill_ms,
                               .total_ms = times.queue_ms + times.prefill_ms + times.decode_ms,
                               .prompt_tokens = 35,
                               .output_tokens = 8});
  }
  record.end_s = 1;
  return record;
}

// Of an engine on two cores, all of which compute, whose cache has room for 100 requests of two blocks.
CheckReport report(const Times& alone, const Times& together, double load_ms = 0) {
  CheckReport made{
      .profile = {}, .baseline = {}, .info = {}, .options = {}, .shape = {}, .phases = {}, .memory = {}, .rows = {}};
  made.info.threads = made.cores = 2;
  made.info.block_tokens = 32;
  made.info.kv_token_bytes = 1000;
  made.memory.kv_capacity_bytes = 200 * 32 * 1000;
  made.phases = {phase("uncached", alone), phase("alone", alone, load_ms), phase("together", together, load_ms),
                 phase("shared", together)};
  return made;
}

// What is said of one metric, in two words and a sentence.
struct Said {
  Bottleneck bottleneck;
  std::string advice;
};

Said of(const CheckReport& report, std::string_view key) {
  const Bottleneck bottleneck = bottleneck_of(report, key);
  return {bottleneck, advice_for(report, key, bottleneck)};
}

void expect(const Said& said, Bottleneck bottleneck, std::string_view advice) {
  EXPECT_EQ(to_string(said.bottleneck), to_string(bottleneck)) << said.advice;
  EXPECT_EQ(said.advice.substr(0, advice.size()), advice);
}

constexpr Times kPrefill = {.queue_ms = 1, .prefill_ms = 50, .decode_ms = 20};
constexpr Times kDecode = {.queue_ms = 1, .prefill_ms = 20, .decode_ms = 50};
constexpr Times kQueue = {.queue_ms = 500, .prefill_ms = 50, .decode_ms = 20};

TEST(Bottlenecks, OneThreadOfTwoCores) {
  CheckReport slow = report(kPrefill, kDecode);
  slow.info.threads = 1;
  expect(of(slow, "p50_ms"), Bottleneck::Prefill, "threads (now 1 of 2 cores): 2");
  expect(of(slow, "requests_per_s"), Bottleneck::Decode, "threads (now 1 of 2 cores): 2");
  slow = report(kPrefill, kQueue);
  slow.info.threads = 1;
  expect(of(slow, "requests_per_s"), Bottleneck::Queue, "threads (now 1 of 2 cores): 2");
}

TEST(Bottlenecks, NoOptionHelpsWhereAllCoresCompute) {
  expect(of(report(kPrefill, kDecode), "p95_ms"), Bottleneck::Prefill,
         "no option: all 2 cores compute; shorter prompts");
  expect(of(report(kPrefill, kDecode), "requests_per_s"), Bottleneck::Decode,
         "no option: all 2 cores compute; fewer tokens out");
  CheckReport precise = report(kDecode, kDecode);
  precise.options.compute = Compute::Precise;
  expect(of(precise, "p99_ms"), Bottleneck::Decode, "compute (now precise): fast");
}

TEST(Bottlenecks, ATinyCacheKeepsRequestsWaiting) {
  CheckReport tiny = report(kDecode, kQueue);
  tiny.options.cache.capacity_bytes = tiny.memory.kv_capacity_bytes = 64 * 32 * 1000;
  tiny.info.threads = 1;  // which is not why they wait
  expect(of(tiny, "requests_per_s"), Bottleneck::Memory, "cache.capacity_bytes (now 2.0 MiB): more");
  expect(of(tiny, "p50_ms"), Bottleneck::Decode, "threads");
  tiny.phases.back().evicted_blocks = 7;
  expect(of(tiny, "hit_percent"), Bottleneck::Memory, "cache.capacity_bytes (now 2.0 MiB): more, or cache.memory_tier");
}

TEST(Bottlenecks, PlacesInTheBatch) {
  CheckReport few = report(kDecode, kQueue);
  few.options.max_batch_sequences = 8;
  expect(of(few, "requests_per_s"), Bottleneck::Queue, "max_batch_sequences (now 8): 100");
  few.memory.kv_capacity_bytes = 20 * 32 * 1000;  // for ten requests, which is more than there are places for
  expect(of(few, "requests_per_s"), Bottleneck::Queue, "max_batch_sequences (now 8): 100");
  expect(of(report(kDecode, kQueue), "requests_per_s"), Bottleneck::Queue,
         "target_step_ms (now 0) and max_batch_tokens (now 1024): higher");
}

TEST(Bottlenecks, AColdDisk) {
  CheckReport cold = report({.queue_ms = 300, .prefill_ms = 20, .decode_ms = 50},
                            {.queue_ms = 300, .prefill_ms = 20, .decode_ms = 50}, 280);
  for (const std::string_view key : {"p50_ms", "requests_per_s"}) {
    expect(of(cold, key), Bottleneck::Load, "cache.memory_tier_bytes (now none): some");
  }
  cold.phases.back().recomputed_share = .5;
  cold.phases.back().evicted_blocks = 7;
  expect(of(cold, "hit_percent"), Bottleneck::Load, "cache.memory_tier_bytes (now none): some");
  cold.options.cache.memory_tier_bytes = 1 << 20;
  expect(of(cold, "p50_ms"), Bottleneck::Load, "cache.capacity_bytes (now 1.0 GiB): more");
}

TEST(Bottlenecks, PromptsThatShareLittle) {
  CheckReport different = report(kDecode, kDecode);
  expect(of(different, "hit_percent"), Bottleneck::Prefill, "no option: nothing was evicted");
  different.options.cache.prefix_reuse = false;
  expect(of(different, "hit_percent"), Bottleneck::Prefill, "cache.prefix_reuse (now false): true");
  different = report(kPrefill, kPrefill);
  different.options.cache.prefix_reuse = false;
  expect(of(different, "p50_ms"), Bottleneck::Prefill, "cache.prefix_reuse (now false): true");
}

TEST(Bottlenecks, Errors) {
  CheckReport refused = report(kDecode, kDecode);
  refused.options.max_queued_requests = 50;
  refused.phases[2].requests[3].code = StatusCode::Rejected;
  expect(of(refused, "error_percent"), Bottleneck::Queue, "max_queued_requests (now 50): at least 100");
  refused.phases[2].requests[3].code = StatusCode::ResourceExhausted;
  expect(of(refused, "error_percent"), Bottleneck::Memory, "cache.capacity_bytes (now 1.0 GiB): more");
}

TEST(Bottlenecks, WhatTheMemoryIsUsedFor) {
  CheckReport full = report(kDecode, kDecode);
  full.memory.weights_bytes = 400 << 20;
  full.memory.workspace_bytes = 60 << 20;
  expect(of(full, "memory_percent"), Bottleneck::Memory, "no option: weights take 400.0 MiB; a smaller model");
  full.memory.kv_cached_bytes = 900 << 20;
  expect(of(full, "memory_percent"), Bottleneck::Memory, "cache.capacity_bytes (now 1.0 GiB): less");
  full.options.cache.memory_tier_bytes = std::size_t{2} << 30;
  expect(of(full, "memory_percent"), Bottleneck::Memory, "cache.memory_tier_bytes (now 2.0 GiB): less");
  full.memory.workspace_bytes = std::size_t{3} << 30;
  expect(of(full, "memory_percent"), Bottleneck::Memory, "max_batch_tokens (now 1024): less");
}

}  // namespace
}  // namespace tiercel::cli
