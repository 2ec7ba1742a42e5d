// Blocks on their way between the hot arena and a tier. Unless said otherwise the background's work is turned by hand.
#include "kv/tier_manager.h"

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kv/kv_cache_state.h"
#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

using TierManagerTest = TierFixture;

TEST_F(TierManagerTest, EvictedBlocksComeBackWithTheirBytes) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 30);  // seven blocks and a bit
  run_and_store(cache, tokens);
  EXPECT_EQ(cache.stats().stored_blocks, 7u);
  push_out(cache);
  EXPECT_EQ(found(cache, tokens), 0u);
  const KvCacheStats before = cache.stats();

  {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    EXPECT_TRUE(expected.in_flight());
    EXPECT_EQ(expected.cached_tokens(), 0u);
    finish(cache);
    EXPECT_FALSE(expected.in_flight());
    EXPECT_EQ(expected.cached_tokens(), 28u);
  }
  EXPECT_EQ(cache.stats().loaded_blocks, 7u);
  EXPECT_EQ(cache.stats().admitted, before.admitted) << "a load is no request";
  EXPECT_EQ(cache.stats().prompt_tokens, before.prompt_tokens);
  EXPECT_EQ(cache.stats().prefetched_useful_blocks, 0u);
  {
    const Lease lease = admit(cache, tokens);
    EXPECT_EQ(lease.matched_tokens(), 28u);
    expect_bytes(cache, lease, std::span(tokens).first(28));
  }
  EXPECT_EQ(cache.stats().prefetched_useful_blocks, 7u);
  EXPECT_EQ(cache.stats().prefetched_wasted_blocks, 0u);
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, BlocksOfAnAdapterComeBackForItAlone) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  const PrefixScope adapted{.salt = "t", .adapter_id = 7};
  run_and_store(cache, tokens, {.scope = adapted});
  push_out(cache);
  for (const PrefixScope& other : {PrefixScope{.salt = "t"}, PrefixScope{.salt = "t", .adapter_id = 8}}) {
    EXPECT_FALSE(cache.expect(tokens, {.scope = other}).in_flight());
  }
  const ExpectedPrompt expected = cache.expect(tokens, {.scope = adapted});
  EXPECT_TRUE(expected.in_flight());
  finish(cache);
  EXPECT_EQ(admit(cache, tokens, {.scope = adapted}).matched_tokens(), 16u);
}

// A write holds nothing until its turn comes: another block may be there then, and have its key where keys collide.
TEST_F(TierManagerTest, AnotherScopesBlockIsNotWrittenForOneThatWasEvicted) {
  const Tokens tokens = numbers(1, 4);
  const PrefixScope own{.salt = "a"};
  for (const PrefixScope& other : {PrefixScope{.salt = "b"}, PrefixScope{.salt = "a", .adapter_id = 7}}) {
    store = std::make_shared<FaultyStore>(tier_bytes(100));
    KvCacheOptions options{.capacity_bytes = bytes(1), .eviction = lru(), .tiers = {store}};
    KvCache cache =
        KvCacheState::open(options, kLayout, {}, {},
                           {.key_function = [](const ContentKey&, std::span<const std::byte>) { return ContentKey{}; },
                            .now_ms = [this] { return now_ms; },
                            .tier_now_s = [this] { return now_s; },
                            .background_thread = false})
            .value();
    run(cache, tokens, {.scope = own});
    run(cache, tokens, {.scope = other});  // takes the only block
    finish(cache);
    push_out(cache);
    const ExpectedPrompt expected = cache.expect(tokens, {.scope = own});
    finish(cache);
    EXPECT_EQ(expected.cached_tokens(), 0u);
  }
}

// So that nobody has to ask again and again.
TEST_F(TierManagerTest, WhoWaitsIsToldWhenALoadIsDone) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 30);
  run_and_store(cache, tokens);
  push_out(cache);
  ExpectedPrompt expected = cache.expect(tokens, {});
  int told = 0;
  cache.notify_transfers([&] { ++told; });
  while (expected.in_flight()) {
    EXPECT_EQ(told, 0) << "it goes on";
    ASSERT_TRUE(tiers(cache).run_one());
  }
  EXPECT_EQ(told, 1);
  push_out(cache);
  expected = cache.expect(tokens, {});
  cache.notify_transfers({});
  finish(cache);
  EXPECT_EQ(cache.stats().loaded_blocks, 14u);
  EXPECT_EQ(told, 1) << "nobody wants to know any more";
}

TEST_F(TierManagerTest, ALoadBeginsBehindWhatIsHot) {
  KvCache cache = open_tiered(64);
  const Tokens shared = numbers(1, 8), whole = shared + numbers(50, 16);
  run_and_store(cache, whole);
  push_out(cache);
  run_and_store(cache, shared);
  EXPECT_EQ(found(cache, whole), 8u);
  const ExpectedPrompt expected = cache.expect(whole, {});
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 24u);
  EXPECT_EQ(cache.stats().loaded_blocks, 4u);
  EXPECT_EQ(cache.stats().stored_blocks, 6u) << "what is stored is not written again";
}

TEST_F(TierManagerTest, ALoadIsNoUseOfWhatItFinds) {
  KvCache cache = open_tiered(64);
  const Tokens shared = numbers(1, 8), whole = shared + numbers(50, 16);
  run_and_store(cache, whole);
  push_out(cache);
  run_and_store(cache, shared, {.retention = {.ttl_ms = 100}});
  {
    const ExpectedPrompt expected = cache.expect(whole, {});
    finish(cache);
    EXPECT_EQ(expected.cached_tokens(), 24u);
  }
  now_ms += 200;
  EXPECT_EQ(found(cache, shared), 0u) << "nobody used it since";
}

TEST_F(TierManagerTest, ABatchIsNoLongerWhereWhatHadArrivedWasEvicted) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 24 * kLayout.block_tokens);
  run_and_store(cache, tokens);
  push_out(cache);
  std::size_t most = 0;
  store->before_read = [&](std::size_t blocks) {
    most = std::max(most, blocks);
    now_s += 1e-5;
  };
  const ExpectedPrompt expected = cache.expect(tokens, {});
  bool was_evicted = false;
  while (tiers(cache).run_one()) {
    if (was_evicted || found(cache, tokens) < 12 * kLayout.block_tokens) continue;
    push_out(cache);
    was_evicted = true;
  }
  EXPECT_TRUE(was_evicted);
  EXPECT_LE(most, kTierBatchBlocks);
  EXPECT_EQ(found(cache, tokens), tokens.size());
}

TEST_F(TierManagerTest, TiersAreAskedOneAfterTheOther) {
  const auto second = std::make_shared<FaultyStore>(tier_bytes(100));
  KvCacheOptions options;
  options.tiers = {store, second};
  const Tokens tokens = numbers(1, 24);
  {
    KvCache earlier = open_tiered(64, {.tiers = {second}});
    run_and_store(earlier, tokens);
  }
  KvCache cache = open_tiered(64, options);
  run_and_store(cache, numbers(1, 8));
  push_out(cache);
  const ExpectedPrompt expected = cache.expect(tokens, {});
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 24u) << "two blocks from the first tier, four from the second";
  EXPECT_EQ(store->stats().stored_blocks, 2u) << "what was loaded is not written";
  const Lease lease = admit(cache, tokens);
  expect_bytes(cache, lease, tokens);
}

TEST_F(TierManagerTest, AScopeNeverLoadsAnothers) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens, {.scope = {.salt = "a", .adapter_id = 1}});
  push_out(cache);
  EXPECT_FALSE(cache.expect(tokens, {.scope = {.salt = "b", .adapter_id = 1}}).in_flight());
  EXPECT_FALSE(cache.expect(tokens, {.scope = {.salt = "a", .adapter_id = 2}}).in_flight());
  EXPECT_TRUE(cache.expect(tokens, {.scope = {.salt = "a", .adapter_id = 1}}).in_flight());
}

TEST_F(TierManagerTest, ALoadRacesWithALeaseOfTheSamePrefix) {
  KvCache cache = open_tiered(128);
  const Tokens tokens = numbers(1, 60);  // more than one batch
  run_and_store(cache, tokens);
  push_out(cache);
  ExpectedPrompt expected = cache.expect(tokens, {});
  ASSERT_TRUE(tiers(cache).run_one());
  EXPECT_EQ(expected.cached_tokens(), 4u) << "a tier whose speed is not known yet is asked for little";
  ASSERT_TRUE(tiers(cache).run_one());
  constexpr std::size_t kLoaded = 1 + kTierBatchBlocks;
  EXPECT_EQ(expected.cached_tokens(), 4 * kLoaded);
  EXPECT_TRUE(expected.in_flight());
  Lease lease = admit(cache, tokens);
  EXPECT_EQ(lease.matched_tokens(), 4 * kLoaded);
  compute(cache, lease, tokens);  // before the load's next batch
  finish(cache);
  EXPECT_EQ(cache.stats().loaded_blocks, kLoaded) << "what was there already counts as computed";
  expect_bytes(cache, lease, tokens);
  lease = Lease();
  expected = ExpectedPrompt();
  finish(cache);
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, APromptThatNoLongerWaitsEndsItsLoad) {
  KvCache cache = open_tiered(128);
  const Tokens tokens = numbers(1, 60);
  run_and_store(cache, tokens);
  push_out(cache);
  cache.expect(tokens, {});  // given up before it began
  finish(cache);
  EXPECT_EQ(cache.stats().loaded_blocks, 0u);
  {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    ASSERT_TRUE(tiers(cache).run_one());
    ASSERT_TRUE(tiers(cache).run_one());
    EXPECT_EQ(cache.stats().leased_blocks, 0u) << "between batches nothing is held";
  }
  finish(cache);
  EXPECT_EQ(cache.stats().loaded_blocks, 1 + kTierBatchBlocks);
  push_out(cache);
  EXPECT_EQ(cache.stats().prefetched_wasted_blocks, 1 + kTierBatchBlocks);
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, ALoadKeepsToTheTenantsQuota) {
  KvCache cache = open_tiered(64, {.tenant_quota_bytes = bytes(8)});
  const AdmitOptions options{.scope = {.salt = "a"}};
  const Tokens tokens = numbers(1, 24);
  run_and_store(cache, tokens, options);
  const Tokens other = numbers(500, 32);
  run_and_store(cache, other, options);  // evicts the tenant's own
  EXPECT_LT(found(cache, tokens, "a"), 24u);
  {
    const Lease all = admit(cache, other, options);  // its whole quota
    const ExpectedPrompt expected = cache.expect(tokens, options);
    finish(cache);
    EXPECT_FALSE(expected.in_flight());
    EXPECT_EQ(cache.stats().loaded_blocks, 0u);
  }
  const ExpectedPrompt expected = cache.expect(tokens, options);
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 24u);
  EXPECT_LE(KvCacheState::of(cache).tenant_blocks("a"), 8u);
}

TEST_F(TierManagerTest, WritesNeverRefuseAnAdmission) {
  KvCache cache = open_tiered(64);
  run(cache, numbers(1, 32));
  run(cache, numbers(101, 32));
  EXPECT_EQ(cache.stats().leased_blocks, 0u);
  push_out(cache);  // needs every block
  finish(cache);
  EXPECT_EQ(cache.stats().unstored_blocks, 16u);
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, WhatIsEvictedBeforeItsTurnIsNotWrittenAsAnother) {
  KvCache cache = open_tiered(16);
  run(cache, numbers(1, 32));
  push_out(cache);
  run(cache, numbers(101, 32));  // in the same blocks
  finish(cache);
  EXPECT_EQ(cache.stats().stored_blocks, 8u);
  push_out(cache);
  const Tokens first = numbers(1, 32), second = numbers(101, 32);
  EXPECT_FALSE(cache.expect(first, {}).in_flight());
  const ExpectedPrompt expected = cache.expect(second, {});
  finish(cache);
  EXPECT_EQ(expected.cached_tokens(), 32u);
  const Lease lease = admit(cache, second);
  expect_bytes(cache, lease, second);
}

// Of two that follow the same one, too: only their keys tell them apart.
TEST_F(TierManagerTest, ASiblingInTheSameBlockIsNotWrittenAsTheEvictedOne) {
  KvCache cache = open_tiered(1);
  run(cache, numbers(1, 4));
  run(cache, numbers(101, 4));  // takes the only block
  finish(cache);
  EXPECT_EQ(cache.stats().stored_blocks, 1u);
  EXPECT_FALSE(cache.expect(numbers(1, 4), {}).in_flight());
}

// For a store that has parts of a block elsewhere, under the same ids.
TEST_F(TierManagerTest, BlocksAreStagedWhileTheyAreHeld) {
  KvCache cache = open_tiered(64);
  Tokens tokens = numbers(1, 28);
  Status answer;
  std::size_t staged = 0;
  store->on_stage = [&](std::span<const BlockId> blocks) {
    staged += blocks.size();
    EXPECT_EQ(cache.stats().leased_blocks, blocks.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_TRUE(holds_kv(cache, blocks, i, kv_word(std::span(tokens).first(i + 1), {}, 0))) << "token " << i;
    }
    return answer;
  };
  run_and_store(cache, tokens);
  EXPECT_EQ(staged, 7u);
  EXPECT_EQ(cache.stats().stored_blocks, 7u);
  EXPECT_EQ(cache.stats().leased_blocks, 0u);
  answer = Status::unavailable("planted");
  tokens = numbers(100, 28);
  run_and_store(cache, tokens);
  EXPECT_EQ(staged, 14u);
  EXPECT_EQ(cache.stats().stored_blocks, 7u) << "what could not be staged was written";
  EXPECT_EQ(cache.stats().leased_blocks, 0u);
}

TEST_F(TierManagerTest, WhatPromisesNeedIsNotHeldForCopies) {
  KvCache cache = open_tiered(64);
  {
    const Lease waiting = admit(cache, {}, {.max_tokens = 4 * 60});
    run(cache, numbers(1, 16));
    const Lease all = admit(cache, {}, {.max_tokens = 4 * 4});
    finish(cache);
    EXPECT_EQ(cache.stats().unstored_blocks, 4u);
  }
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, WhatWillNotOrMustNotComeBackIsNotWritten) {
  KvCache cache = open_tiered(64);
  run_and_store(cache, numbers(1, 16), {.retention = {.ttl_ms = 100}});
  run_and_store(cache, numbers(101, 16), {.retention = {.priority = RetentionPriority::Low}});
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  run_and_store(cache, numbers(201, 16), {.retention = {.priority = RetentionPriority::High}});
  EXPECT_EQ(store->stats().stored_blocks, 4u);
}

TEST_F(TierManagerTest, WhatIsForgottenIsNotLoaded) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  run(cache, numbers(101, 16));  // its write is queued
  EXPECT_EQ(cache.invalidate_all(), 8u);
  finish(cache);
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  EXPECT_FALSE(cache.expect(tokens, {}).in_flight());
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, ForgottenInTheMiddleOfAWrite) {
  KvCache cache = open_tiered(128);
  const Tokens tokens = numbers(1, 60);
  run(cache, tokens);
  ASSERT_TRUE(tiers(cache).run_one());
  EXPECT_EQ(store->stats().stored_blocks, kTierBatchBlocks);
  cache.invalidate_all();
  finish(cache);
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, ABlockThatIsNotThereEndsTheLoad) {
  KvCache cache = open_tiered(64);
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  push_out(cache);
  store->claims_everything = true;
  const Tokens longer = tokens + numbers(900, 24);
  {
    const ExpectedPrompt expected = cache.expect(longer, {});
    finish(cache);
    EXPECT_FALSE(expected.in_flight());
    EXPECT_EQ(expected.cached_tokens(), 16u);
  }
  EXPECT_EQ(cache.stats().store_errors, 0u) << "not to be there is no error";
  expect_all_returned(cache);
}

TEST_F(TierManagerTest, AFaultyStoreCostsHitsAndNothingElse) {
  const Tokens tokens = numbers(1, 28);
  const auto loaded = [&](unsigned FaultyStore::*fault, bool on_write) {
    store = std::make_shared<FaultyStore>(tier_bytes(100));
    KvCache cache = open_tiered(64);
    if (on_write) (*store).*fault = 1;
    run_and_store(cache, tokens);
    push_out(cache);
    (*store).*fault = 1;
    ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    EXPECT_FALSE(expected.in_flight());
    EXPECT_EQ(expected.cached_tokens(), 0u);
    expected = ExpectedPrompt();
    const std::uint64_t errors = cache.stats().store_errors;
    expect_all_returned(cache);
    return errors;
  };
  EXPECT_EQ(loaded(&FaultyStore::wrong_tokens_one_in, true), 0u);
  EXPECT_GT(loaded(&FaultyStore::damage_one_in, false), 0u);
  EXPECT_GT(loaded(&FaultyStore::fail_read_one_in, false), 0u);
  EXPECT_EQ(loaded(&FaultyStore::fail_write_one_in, true), 1u);
}

TEST_F(TierManagerTest, OpenRefusesWhatItCannotServe) {
  const auto status = [&](KvCacheOptions options, std::span<const KvGroup> groups) {
    options.capacity_bytes = bytes(8);
    return KvCache::open(options, kLayout, {}, groups).status().code();
  };
  const std::vector<KvGroup> two = {{0}, {8}};
  EXPECT_EQ(status({.tiers = {nullptr}}, {}), StatusCode::InvalidArgument);
  EXPECT_EQ(status({.tiers = {store}}, two), StatusCode::InvalidArgument);
  EXPECT_EQ(status({.tiers = {store}}, {}), StatusCode::Ok);
}

// Requests, waits, cancellations, loads and writes in a random order, on a store that fails now and then.
TEST_F(TierManagerTest, AFlushIsNotOkWhileSomethingCouldNotBeForgotten) {
  KvCache cache = open_tiered(64);
  store->durable = true;
  const Tokens tokens = numbers(1, 16);
  run_and_store(cache, tokens);
  store->fail_erase_one_in = 1;
  cache.invalidate(std::span(tokens).first(4));
  EXPECT_EQ(cache.flush().code(), StatusCode::Unavailable);
  store->fail_erase_one_in = 0;
  now_s += 100;  // the tier is asked again
  EXPECT_TRUE(cache.flush().ok());
  EXPECT_EQ(store->stats().stored_blocks, 0u);
}

TEST_F(TierManagerTest, SeededHistoriesLeaveNothingBehind) {
  std::uint64_t loaded = 0, useful = 0, stored = 0, errors = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    store = std::make_shared<FaultyStore>(tier_bytes(60));
    store->random.seed(seed);
    if (seed % 2 == 0) {
      store->damage_one_in = store->wrong_tokens_one_in = 12;
      store->fail_read_one_in = store->fail_write_one_in = 8;
      store->fail_erase_one_in = 4;
    }
    std::shared_ptr<DistantMemory> distant;
    if (seed % 5 < 2) {
      distant = std::make_shared<DistantMemory>(40, kLayout.block_bytes());
      if (seed % 2 == 0) distant->fails = [&] { return random() % 10 == 0; };
    }
    KvCache cache = open_tiered(40, {.tenant_quota_bytes = seed % 3 == 0 ? bytes(25) : 0}, distant);
    struct Waiting {
      Tokens tokens;
      std::string salt;
      ExpectedPrompt expected;
    };
    struct Running {
      Lease lease;
      Tokens tokens;
    };
    std::vector<std::unique_ptr<Waiting>> waiting;
    std::vector<Running> running;
    for (int step = 0; step < 400; ++step) {
      const auto choice = random() % 16;
      if (choice < 4 && waiting.size() < 4) {
        auto next = std::make_unique<Waiting>();
        next->tokens = numbers(static_cast<TokenId>(random() % 6) * 100, 4 + random() % 48);
        if (random() % 3 == 0) next->tokens[random() % next->tokens.size()] = 7;
        next->salt = random() % 4 == 0 ? "b" : "";
        next->expected = cache.expect(next->tokens, {.scope = {.salt = next->salt}});
        waiting.push_back(std::move(next));
      } else if (choice < 8 && !waiting.empty()) {
        std::unique_ptr<Waiting> next = std::move(waiting.front());
        waiting.erase(waiting.begin());
        AdmitOptions options{.max_tokens = next->tokens.size() + random() % 8, .scope = {.salt = next->salt}};
        options.retention.ttl_ms = random() % 8 == 0 ? 50 : 0;
        auto lease = cache.admit(next->tokens, options);
        if (!lease.ok()) continue;
        for (std::size_t i = 0; i < lease->matched_tokens(); ++i) {
          const std::uint64_t word = kv_word(std::span(next->tokens).first(i + 1), next->salt, 0);
          ASSERT_TRUE(holds_kv(cache, lease->block_table(), i, word)) << "token " << i;
        }
        compute(cache, *lease, next->tokens, next->salt);
        running.push_back({*std::move(lease), next->tokens});
      } else if (choice == 8 && !waiting.empty()) {
        waiting.pop_back();
      } else if (choice < 12 && !running.empty()) {
        running.erase(running.begin());
      } else if (choice == 12 && random() % 8 == 0) {
        cache.invalidate(numbers(static_cast<TokenId>(random() % 6) * 100, 8));
      } else if (choice == 13) {
        now_ms += random() % 20;
        now_s += static_cast<double>(random() % 3);
      } else {
        tiers(cache).run_one();
      }
      ASSERT_EQ(KvCacheState::of(cache).audit(), "");
    }
    running.clear();
    waiting.clear();
    finish(cache);
    const KvCacheStats stats = cache.stats();
    loaded += stats.loaded_blocks;
    useful += stats.prefetched_useful_blocks;
    stored += stats.stored_blocks;
    errors += stats.store_errors;
    EXPECT_LE(stats.prefetched_useful_blocks + stats.prefetched_wasted_blocks, stats.loaded_blocks);
    expect_all_returned(cache);
    EXPECT_EQ(cache.stats().prefetched_useful_blocks + cache.stats().prefetched_wasted_blocks, stats.loaded_blocks);
  }
  EXPECT_GT(stored, 1000u);
  EXPECT_GT(loaded, 600u);
  EXPECT_GT(useful, 200u);
  EXPECT_GT(errors, 100u);
}

// With its thread. For ThreadSanitizer, and for the order of ends.
TEST(TierManagerThreads, EveryHitHasTheRightBytes) {
  const KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};
  const std::size_t stride = BlockMemory::stride_of(layout.block_bytes());
  const auto store = std::make_shared<MemoryStore>(MemoryTierOptions{
      .capacity_bytes = 100 * MemoryStore::taken_bytes(layout.block_bytes(), layout), .codec = Codec::Raw});
  std::atomic<std::uint64_t> wrong_answers = 0;
  std::uint64_t loaded = 0;
  Lease survivor;
  ExpectedPrompt waiting_survivor;
  const Tokens waiting_tokens = numbers(0, 32);
  for (int round = 0; round < 3; ++round) {
    auto cache = KvCache::open({.capacity_bytes = 48 * stride, .tiers = {store}}, layout, {}).value();
    const auto work = [&](std::uint64_t seed) {
      std::mt19937_64 random(seed);
      for (int step = 0; step < 400; ++step) {
        const Tokens tokens = numbers(static_cast<TokenId>(random() % 12) * 10, 8 + random() % 24);
        auto expected = cache.expect(tokens, {});
        for (int i = 0; i < 200 && expected.in_flight(); ++i) std::this_thread::yield();
        if (random() % 8 == 0) continue;
        auto lease = cache.admit(tokens, {.max_tokens = tokens.size()});
        expected = ExpectedPrompt();
        if (!lease.ok()) continue;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          const std::uint64_t word = kv_word(std::span(tokens).first(i + 1), {}, 0);
          if (i < lease->matched_tokens()) {
            if (!holds_kv(cache, lease->block_table(), i, word)) ++wrong_answers;
          } else {
            if (!lease->grow(i + 1).ok()) ++wrong_answers;
            write_kv(cache, lease->block_table(), i, word);
            lease->commit(std::span(tokens).subspan(i, 1));
          }
        }
        if (random() % 64 == 0) cache.invalidate(std::span(tokens).first(4));
        if (random() % 16 == 0 && !KvCacheState::of(cache).audit().empty()) ++wrong_answers;
      }
    };
    std::vector<std::thread> threads;
    for (std::uint64_t seed = 1; seed <= 3; ++seed)
      threads.emplace_back(work, seed + 10 * static_cast<unsigned>(round));
    for (std::thread& thread : threads) thread.join();
    loaded += cache.stats().loaded_blocks;
    survivor = cache.admit({}, {.max_tokens = 8}).value();
    waiting_survivor = cache.expect(waiting_tokens, {});
  }
  EXPECT_EQ(wrong_answers, 0u);
  EXPECT_GT(loaded, 0u);
}

}  // namespace
}  // namespace tiercel
