// What is kept longer than the policy would, what is forgotten sooner: pins, priorities, times to live, invalidation.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kv/kv_cache_fixture.h"

namespace tiercel {
namespace {

class KvCachePins : public KvCacheFixture {};
class KvCacheRetention : public KvCacheFixture {};
class KvCacheInvalidation : public KvCacheFixture {};

TEST_F(KvCachePins, KeepThePrefixUntilUnpinned) {
  auto cache = open(8);
  const Tokens system = numbers(0, 10);
  EXPECT_EQ(cache.pin(system).status().code(), StatusCode::NotFound);
  run(cache, system);
  EXPECT_EQ(cache.pin(system).value(), 8u) << "whole blocks";
  EXPECT_EQ(cache.pin(system).value(), 8u) << "twice is once";
  EXPECT_EQ(cache.stats().pinned_blocks, 2u);
  for (TokenId i = 1; i < 20; ++i) run(cache, numbers(100 * i, 24));
  EXPECT_EQ(found(cache, system), 8u);
  EXPECT_EQ(cache.admit(numbers(0, 28), {.max_tokens = 32, .max_matched_tokens = 0}).status().code(),
            StatusCode::Unavailable)
      << "pinned blocks are nobody's room";
  EXPECT_EQ(cache.unpin(system), 1u);
  EXPECT_EQ(cache.unpin(system), 0u);
  EXPECT_EQ(cache.stats().pinned_blocks, 0u);
  for (TokenId i = 1; i < 4; ++i) run(cache, numbers(100 * i, 32));
  EXPECT_EQ(found(cache, system), 0u);
  expect_all_returned(cache);
}

TEST_F(KvCachePins, ExpireByTheClock) {
  auto cache = open(8);
  const Tokens system = numbers(0, 8);
  run(cache, system);
  ASSERT_TRUE(cache.pin(system, {}, 500).ok());
  now_ms += 499;
  run(cache, numbers(100, 24));
  EXPECT_EQ(found(cache, system), 8u);
  ASSERT_TRUE(cache.pin(system, {}, 500).ok()) << "renewed";
  now_ms += 499;
  run(cache, numbers(200, 24));
  EXPECT_EQ(cache.stats().pinned_blocks, 2u);
  now_ms += 1;
  run(cache, numbers(300, 32));
  EXPECT_EQ(found(cache, system), 0u);
  EXPECT_EQ(cache.stats().pinned_blocks, 0u);
  expect_all_returned(cache);
}

TEST_F(KvCachePins, OverlapAndHaveALimit) {
  auto cache = open(8);
  const Tokens a = numbers(0, 4) + numbers(10, 4), b = numbers(0, 4) + numbers(20, 8);
  run(cache, a);
  run(cache, b);
  ASSERT_TRUE(cache.pin(a).ok());
  ASSERT_TRUE(cache.pin(b).ok());
  EXPECT_EQ(cache.stats().pinned_blocks, 4u) << "the first block is in both";
  run(cache, numbers(300, 4));
  EXPECT_EQ(cache.pin(numbers(300, 4)).status().code(), StatusCode::ResourceExhausted) << "half of the cache";
  EXPECT_EQ(cache.unpin(a), 1u);
  EXPECT_EQ(cache.stats().pinned_blocks, 3u);
  run(cache, numbers(400, 20));
  EXPECT_EQ(found(cache, b), 12u);
  EXPECT_EQ(found(cache, a), 4u);
  cache.unpin(b);
  expect_all_returned(cache);
}

TEST_F(KvCachePins, CountAgainstPromisesAndQuotas) {
  auto cache = open(6, {.tenant_quota_bytes = bytes(5)});
  const PrefixScope tenant{.salt = "t"};
  run(cache, numbers(0, 8), {.scope = tenant});
  Lease promised = admit(cache, numbers(100, 4), {.max_tokens = 16, .scope = tenant});
  EXPECT_EQ(cache.pin(numbers(0, 8), tenant).status().code(), StatusCode::Rejected) << "4 of 5 are promised";
  Lease other = admit(cache, numbers(100, 4), {.max_tokens = 8, .scope = {.salt = "u"}});
  EXPECT_TRUE(promised.grow(16).ok());
  EXPECT_TRUE(other.grow(8).ok());
  EXPECT_EQ(found(cache, numbers(0, 8), "t"), 0u);
}

TEST_F(KvCacheRetention, LowGoesFirstHighGoesLast) {
  auto cache = open(6);
  const Tokens high = numbers(0, 8), normal = numbers(100, 8), low = numbers(200, 8);
  run(cache, high, {.retention = {.priority = RetentionPriority::High}});
  run(cache, normal);
  run(cache, low, {.retention = {.priority = RetentionPriority::Low}});
  run(cache, numbers(300, 8), {.retention = {.priority = RetentionPriority::Low}});
  EXPECT_EQ(found(cache, low), 0u) << "the newest, and yet the first";
  EXPECT_EQ(found(cache, normal), 8u);
  run(cache, numbers(400, 16));
  EXPECT_EQ(found(cache, normal), 0u);
  EXPECT_EQ(found(cache, high), 8u);
  run(cache, numbers(500, 24));
  EXPECT_EQ(found(cache, high), 0u) << "a promise is worth more";
}

TEST_F(KvCacheRetention, TheStrongestWishCounts) {
  auto cache = open(4);
  const Tokens prompt = numbers(0, 8);
  run(cache, prompt, {.retention = {.priority = RetentionPriority::High}});
  run(cache, prompt, {.retention = {.priority = RetentionPriority::Low}});
  run(cache, numbers(100, 8));
  run(cache, numbers(200, 8));
  EXPECT_EQ(found(cache, prompt), 8u);
  // warm() is a use, too.
  run(cache, numbers(300, 8), {.retention = {.priority = RetentionPriority::Low}});
  EXPECT_EQ(cache.warm(numbers(300, 8), {}), 8u);
  run(cache, numbers(400, 4), {.retention = {.priority = RetentionPriority::Low}});
  EXPECT_EQ(found(cache, numbers(300, 8)), 4u) << "one had to go";
  run(cache, numbers(500, 4));
  EXPECT_EQ(found(cache, numbers(400, 4)), 0u);
  EXPECT_EQ(found(cache, numbers(300, 8)), 4u);
}

TEST_F(KvCacheRetention, WhatLivedTooLongIsNotFound) {
  auto cache = open(8);
  const Tokens prompt = numbers(0, 8);
  const AdmitOptions brief{.retention = {.ttl_ms = 100}};
  run(cache, prompt, brief);
  run(cache, numbers(100, 8));
  now_ms += 99;
  EXPECT_EQ(found(cache, prompt), 8u);
  EXPECT_EQ(cache.warm(prompt, brief), 8u) << "a use begins the time anew";
  now_ms += 99;
  EXPECT_EQ(found(cache, prompt), 8u);
  now_ms += 1;
  EXPECT_EQ(found(cache, prompt), 0u);
  EXPECT_EQ(found(cache, numbers(0, 7)), 0u) << "nor parts of it";
  EXPECT_EQ(found(cache, numbers(100, 8)), 8u);
  // Computed again, it lives again; and in use it does not end.
  Lease lease = run(cache, prompt, brief);
  now_ms += 1000;
  EXPECT_EQ(found(cache, prompt), 8u);
  lease = Lease();
  EXPECT_EQ(found(cache, prompt), 8u);
  now_ms += 100;
  EXPECT_EQ(found(cache, prompt), 0u);
  run(cache, numbers(200, 8));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(admit(cache, numbers(900, 4)).grow(4).ok());
  EXPECT_EQ(cache.stats().free_blocks, 4u) << "its room is given back, without need";
  EXPECT_GE(cache.stats().expired_blocks, 2u);
  EXPECT_EQ(cache.stats().evicted_blocks, 0u);
  // Without a limit once is without a limit.
  run(cache, numbers(200, 8), brief);
  now_ms += 1000;
  EXPECT_EQ(found(cache, numbers(200, 8)), 8u);
  expect_all_returned(cache);
}

TEST_F(KvCacheInvalidation, ByPrefix) {
  auto cache = open(16);
  const Tokens document = numbers(0, 8);
  run(cache, document + numbers(100, 8));
  run(cache, document + numbers(200, 8));
  run(cache, numbers(0, 4) + numbers(300, 4));
  run(cache, numbers(500, 8));
  EXPECT_EQ(cache.invalidate({}), 0u);
  EXPECT_EQ(cache.invalidate(numbers(1, 9)), 0u) << "nothing begins so";
  EXPECT_EQ(cache.invalidate(document + numbers(100, 3)), 5u) << "its whole blocks, and all behind them";
  EXPECT_EQ(found(cache, document + numbers(100, 8)), 4u);
  EXPECT_EQ(found(cache, numbers(0, 4) + numbers(300, 4)), 8u);
  EXPECT_EQ(cache.invalidate(numbers(0, 2)), 2u) << "ends within a block";
  EXPECT_EQ(found(cache, numbers(500, 8)), 8u);
  EXPECT_EQ(cache.invalidate(numbers(500, 8), {.salt = "other"}), 0u);
  expect_all_returned(cache);
}

TEST_F(KvCacheInvalidation, OfATenant) {
  auto cache = open(16);
  run(cache, numbers(0, 8), {.scope = {.salt = "a"}});
  run(cache, numbers(0, 8), {.scope = {.salt = "a", .adapter_id = 3}});
  run(cache, numbers(0, 8), {.scope = {.salt = "ab"}});
  Lease running = admit(cache, numbers(50, 8), {.scope = {.salt = "a"}});
  EXPECT_EQ(cache.invalidate_tenant("a"), 4u);
  EXPECT_EQ(found(cache, numbers(0, 8), "a"), 0u);
  EXPECT_EQ(found(cache, numbers(0, 8), "ab"), 8u);
  compute(cache, running, numbers(50, 8), "a");
  EXPECT_EQ(found(cache, numbers(50, 8), "a"), 0u) << "begun before";
  running = Lease();
  run(cache, numbers(50, 8), {.scope = {.salt = "a"}});
  EXPECT_EQ(found(cache, numbers(50, 8), "a"), 8u);
  expect_all_returned(cache);
}

TEST_F(KvCacheInvalidation, EndsPinsAndLeavesLeasesTheirBlocks) {
  auto cache = open(16);
  const Tokens prompt = numbers(0, 8);
  Lease running = run(cache, prompt, {.max_tokens = 16});
  ASSERT_TRUE(cache.pin(prompt).ok());
  const ExpectedPrompt waiting = cache.expect(prompt, {});
  EXPECT_EQ(cache.invalidate(numbers(0, 4)), 2u);
  EXPECT_EQ(cache.stats().pinned_blocks, 0u);
  EXPECT_EQ(waiting.cached_tokens(), 0u);
  EXPECT_EQ(found(cache, prompt), 0u);
  expect_bytes(cache, running, prompt);
  compute(cache, running, prompt + numbers(60, 8));
  EXPECT_EQ(found(cache, prompt + numbers(60, 8)), 0u);
  run(cache, prompt);
  EXPECT_EQ(waiting.cached_tokens(), 8u);
  expect_bytes(cache, running, prompt + numbers(60, 8));
  running = Lease();
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
}

}  // namespace
}  // namespace tiercel
