// KvCache and Lease, behaviour by behaviour.
#include "tiercel/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kv/kv_cache_state.h"
#include "tests/kv/kv_pattern.h"

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;
constexpr KvLayout kLayout{.layers = 2, .kv_heads = 2, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};

Tokens numbers(TokenId first, std::size_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

KvCache open_cache(std::size_t blocks, bool prefix_reuse = true) {
  return KvCache::open(
             {.capacity_bytes = blocks * kLayout.block_bytes(), .prefix_reuse = prefix_reuse, .eviction = lru()},
             kLayout, {})
      .value();
}

// Writes and commits tokens [committed, tokens.size()), checking first what was matched.
void fill(KvCache& cache, Lease& lease, const Tokens& tokens, std::string_view salt = {}, bool share = true) {
  const std::span<const TokenId> all = tokens;
  ASSERT_TRUE(lease.grow(tokens.size()).ok());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::uint64_t word = kv_word(all.first(i + 1), salt, 0);
    if (i < lease.committed_tokens()) {
      ASSERT_TRUE(holds_kv(cache, lease.block_table(), i, word)) << "token " << i;
    } else {
      write_kv(cache, lease.block_table(), i, word);
    }
  }
  lease.commit(all.subspan(lease.committed_tokens()), share);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_TRUE(holds_kv(cache, lease.block_table(), i, kv_word(all.first(i + 1), salt, 0))) << "token " << i;
  }
}

// Admits, fills and returns the lease.
Lease run(KvCache& cache, const Tokens& tokens, AdmitOptions options = {}) {
  options.max_tokens = std::max(options.max_tokens, tokens.size());
  Lease lease = cache.admit(tokens, options).value();
  fill(cache, lease, tokens, options.scope.salt);
  return lease;
}

std::size_t matched(KvCache& cache, const Tokens& tokens, AdmitOptions options = {}) {
  options.max_tokens = std::max(options.max_tokens, tokens.size());
  const std::size_t looked_up = cache.lookup(tokens, options);
  const std::size_t found = cache.admit(tokens, options).value().matched_tokens();
  EXPECT_EQ(found, looked_up);
  return found;
}

void expect_sound(const KvCache& cache) {
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
  const KvCacheStats stats = cache.stats();
  EXPECT_EQ(stats.capacity_blocks, stats.free_blocks + stats.leased_blocks + stats.cached_blocks);
}

TEST(KvCache, OpenRefusesWhatCannotWork) {
  const auto code = [](std::size_t bytes, const KvLayout& layout) {
    return KvCache::open({.capacity_bytes = bytes}, layout, {}).status().code();
  };
  KvLayout none = kLayout;
  none.layers = 0;
  EXPECT_EQ(code(1 << 20, none), StatusCode::InvalidArgument);
  KvLayout endless{.layers = 1u << 31, .kv_heads = 1u << 31, .head_dim = 1u << 31, .block_tokens = 1u << 31};
  EXPECT_EQ(code(1 << 20, endless), StatusCode::InvalidArgument);
  EXPECT_EQ(code(kLayout.block_bytes() - 1, kLayout), StatusCode::InvalidArgument);
  EXPECT_EQ(code(kLayout.block_bytes(), kLayout), StatusCode::Ok);
  EXPECT_EQ(code(std::size_t{1} << 58, kLayout), StatusCode::InvalidArgument) << "too many blocks";
  const KvLayout big{.layers = 1000, .kv_heads = 100, .head_dim = 1000, .block_tokens = 128};
  EXPECT_EQ(code(std::size_t{1} << 60, big), StatusCode::Unavailable);
}

TEST(KvCache, CapacityIsRoundedDownToWholeBlocks) {
  auto cache = KvCache::open({.capacity_bytes = 3 * kLayout.block_bytes() + 200}, kLayout, {}).value();
  EXPECT_EQ(cache.stats().capacity_blocks, 3u);
  EXPECT_EQ(cache.stats().block_bytes, kLayout.block_bytes());
  EXPECT_EQ(cache.stats().free_blocks, 3u);
  EXPECT_EQ(cache.layout().block_tokens, 4u);
}

TEST(KvCache, BlocksOfAnOddSizeStayAligned) {
  const KvLayout odd{.layers = 1, .kv_heads = 1, .head_dim = 3, .block_tokens = 5, .dtype = DType::F32};
  auto cache = KvCache::open({.capacity_bytes = 640}, odd, {}).value();
  EXPECT_EQ(odd.block_bytes(), 120u);
  EXPECT_EQ(cache.stats().block_bytes, 128u);
  EXPECT_EQ(cache.stats().capacity_blocks, 5u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(cache.block(3)) % 64, 0u);
}

// Bytes of the arena that the system has backed.
std::size_t resident_bytes(const KvCache& cache, std::size_t capacity_bytes) {
  constexpr std::size_t kPage = 4096;
  std::vector<unsigned char> pages(capacity_bytes / kPage);
  EXPECT_EQ(mincore(cache.block(0), capacity_bytes, pages.data()), 0);
  return kPage * static_cast<std::size_t>(std::ranges::count_if(pages, [](unsigned char page) { return page & 1; }));
}

TEST(KvCache, PrefaultBacksWhatIsUsedNextAndNoMore) {
  constexpr std::size_t kLargePage = std::size_t{2} << 20, kAhead = 3 * kLargePage, kCapacity = 12 * kLargePage;
  const KvLayout large{.layers = 8, .kv_heads = 4, .head_dim = 64, .block_tokens = 32, .dtype = DType::F16};
  ASSERT_EQ(kCapacity % large.block_bytes(), 0u);
  auto cache = KvCache::open({.capacity_bytes = kCapacity, .prefault_bytes = kAhead}, large, {}).value();
  const Tokens prompt = numbers(0, 32);
  Lease lease = cache.admit(prompt, {.max_tokens = kCapacity / large.block_bytes() * 32}).value();
  ASSERT_TRUE(lease.grow(32).ok());
  std::memset(cache.block(lease.block_table()[0]), 0x5a, large.block_bytes());
  std::size_t pieces = 0;
  while (cache.prefault()) ++pieces;
  if (pieces == 0) GTEST_SKIP() << "this system cannot back memory ahead of its use";
  const std::size_t ahead = resident_bytes(cache, kCapacity);
  EXPECT_GE(ahead, kAhead);
  EXPECT_LE(ahead, large.block_bytes() + kAhead + 2 * kLargePage) << "with large pages at both ends";
  EXPECT_FALSE(cache.prefault());
  for (std::size_t i = 0; i < large.block_bytes(); ++i) {
    ASSERT_EQ(cache.block(lease.block_table()[0])[i], std::byte{0x5a}) << "byte " << i;
  }

  // What is used goes on, and what is ahead of it; at the arena's end there is no more.
  ASSERT_TRUE(lease.grow(kCapacity / large.block_bytes() / 2 * 32).ok());
  while (cache.prefault()) {
  }
  EXPECT_GE(resident_bytes(cache, kCapacity), kAhead + kAhead / 2);
  ASSERT_TRUE(lease.grow(kCapacity / large.block_bytes() * 32).ok());
  EXPECT_FALSE(cache.prefault());

  auto none = KvCache::open({.capacity_bytes = kCapacity, .prefault_bytes = 0}, large, {}).value();
  EXPECT_FALSE(none.prefault());
  EXPECT_EQ(resident_bytes(none, kCapacity), 0u);
}

TEST(KvCache, ASecondRequestFindsTheFirstOnesBlocks) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 10);
  const Lease first = run(cache, prompt);
  EXPECT_EQ(first.matched_tokens(), 0u);
  EXPECT_EQ(first.committed_tokens(), 10u);
  Lease second = run(cache, prompt);
  EXPECT_EQ(second.matched_tokens(), 8u) << "the last, partly filled block is not shared";
  EXPECT_EQ(second.block_table()[0], first.block_table()[0]);
  EXPECT_EQ(second.block_table()[1], first.block_table()[1]);
  EXPECT_NE(second.block_table()[2], first.block_table()[2]);
  EXPECT_EQ(cache.stats().leased_blocks, 4u);
  expect_sound(cache);
}

TEST(KvCache, CachedBlocksOutliveTheirLease) {
  auto cache = open_cache(8);
  run(cache, numbers(0, 8));
  EXPECT_EQ(cache.stats().cached_blocks, 2u);
  EXPECT_EQ(cache.stats().leased_blocks, 0u);
  EXPECT_EQ(matched(cache, numbers(0, 8)), 8u);
  EXPECT_EQ(matched(cache, numbers(1, 8)), 0u);
}

TEST(KvCache, AHitNeverExceedsMaxMatchedTokens) {
  auto cache = open_cache(8);
  run(cache, numbers(0, 12));
  for (std::size_t most = 0; most <= 12; ++most) {
    EXPECT_EQ(matched(cache, numbers(0, 12), {.max_matched_tokens = most}), most) << "the rest of a block by copy";
    EXPECT_EQ(matched(cache, numbers(0, 12), {.max_matched_tokens = most, .partial_blocks = false}), most / 4 * 4);
    run(cache, numbers(0, 12), {.max_matched_tokens = most});
    run(cache, numbers(0, 12), {.max_matched_tokens = most, .partial_blocks = false});
  }
  EXPECT_EQ(cache.stats().cached_blocks, 3u) << "equal blocks are kept once";
  expect_sound(cache);
}

TEST(KvCache, APartlyMatchingBlockIsCopiedNotShared) {
  auto cache = open_cache(8);
  const Tokens first = numbers(0, 8);
  run(cache, first);
  Tokens other = first;
  other[6] = 99;
  other.push_back(100);
  Lease lease = cache.admit(other, {.max_tokens = 9}).value();
  EXPECT_EQ(lease.matched_tokens(), 6u);
  EXPECT_EQ(lease.block_table().size(), 2u);
  EXPECT_EQ(cache.stats().copied_tokens, 2u);
  fill(cache, lease, other);  // checks the copied bytes and overwrites the rest
  run(cache, first);          // still intact
  EXPECT_EQ(matched(cache, first), 8u);
  EXPECT_EQ(matched(cache, other), 8u);
  expect_sound(cache);
}

TEST(KvCache, TheCopiedBlockMayBeTheLastOneLeft) {
  auto cache = open_cache(1);
  run(cache, numbers(0, 4));
  Tokens other = numbers(0, 4);
  other[3] = 50;
  Lease lease = cache.admit(other, {.max_tokens = 4}).value();
  EXPECT_EQ(lease.matched_tokens(), 3u);
  fill(cache, lease, other);
  EXPECT_EQ(cache.stats().evicted_blocks, 1u);
  EXPECT_EQ(cache.lookup(numbers(0, 4), {}), 3u);
  expect_sound(cache);
}

TEST(KvCache, TheCopiedBlockIsKeptWhereAnotherCanGo) {
  auto cache = open_cache(3);
  run(cache, numbers(0, 4));
  run(cache, numbers(100, 4));
  run(cache, numbers(200, 4));
  Tokens other = numbers(0, 4);
  other[3] = 50;
  run(cache, other);
  EXPECT_EQ(cache.lookup(numbers(0, 4), {}), 4u) << "though it was the least recently used";
  EXPECT_EQ(cache.lookup(numbers(100, 4), {}), 0u);
  EXPECT_EQ(cache.lookup(numbers(200, 4), {}), 4u);
}

TEST(KvCache, EmptyPromptsAndEmptyLeasesWork) {
  auto cache = open_cache(2);
  Lease lease = cache.admit({}, {.max_tokens = 5}).value();
  EXPECT_EQ(lease.matched_tokens(), 0u);
  EXPECT_TRUE(lease.block_table().empty());
  EXPECT_EQ(cache.stats().promised_blocks, 2u);
  fill(cache, lease, numbers(0, 5));
  Lease nothing = cache.admit({}, {}).value();
  EXPECT_TRUE(nothing.grow(0).ok());
  EXPECT_EQ(nothing.grow(1).code(), StatusCode::ResourceExhausted);

  Lease unbound;
  EXPECT_EQ(unbound.matched_tokens() + unbound.committed_tokens() + unbound.block_table().size(), 0u);
  EXPECT_TRUE(unbound.grow(0).ok());
  EXPECT_EQ(unbound.grow(1).code(), StatusCode::ResourceExhausted);
  unbound.commit({});
  expect_sound(cache);
}

TEST(KvCache, AdmitSaysWhyNot) {
  auto cache = open_cache(4);
  EXPECT_EQ(cache.admit(numbers(0, 5), {.max_tokens = 4}).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(cache.admit({}, {.max_tokens = 17}).status().code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(cache.admit({}, {.max_tokens = SIZE_MAX}).status().code(), StatusCode::ResourceExhausted);
  const Lease three = cache.admit({}, {.max_tokens = 9}).value();
  EXPECT_EQ(cache.admit({}, {.max_tokens = 5}).status().code(), StatusCode::Unavailable);
  EXPECT_EQ(cache.stats().promised_blocks, 3u) << "a refused admit takes nothing";
  EXPECT_TRUE(cache.admit({}, {.max_tokens = 4}).ok());
  EXPECT_EQ(cache.stats().admitted, 2u);
}

TEST(KvCache, GrowIsBoundToThePromise) {
  auto cache = open_cache(4);
  Lease lease = cache.admit({}, {.max_tokens = 6}).value();
  EXPECT_TRUE(lease.grow(3).ok());
  EXPECT_EQ(lease.block_table().size(), 1u);
  EXPECT_TRUE(lease.grow(6).ok());
  EXPECT_EQ(lease.block_table().size(), 2u);
  EXPECT_TRUE(lease.grow(1).ok());
  EXPECT_EQ(lease.block_table().size(), 2u);
  EXPECT_EQ(lease.grow(7).code(), StatusCode::ResourceExhausted) << "even where the last block has room";
  EXPECT_EQ(lease.block_table().size(), 2u);
  EXPECT_EQ(cache.stats().promised_blocks, 0u);
}

TEST(KvCache, HoldingCachedBlocksDoesNotBreakEarlierPromises) {
  auto cache = open_cache(4);
  run(cache, numbers(0, 16));  // all four blocks cached
  Lease promised = cache.admit({}, {.max_tokens = 12}).value();
  // A hit on four cached blocks needs no new block, but would leave nothing to evict for the promise.
  EXPECT_EQ(cache.admit(numbers(0, 16), {.max_tokens = 16}).status().code(), StatusCode::Unavailable);
  EXPECT_TRUE(cache.admit(numbers(0, 4), {.max_tokens = 4}).ok());
  EXPECT_TRUE(promised.grow(12).ok());
  EXPECT_EQ(cache.stats().evicted_blocks, 3u);
  EXPECT_EQ(cache.lookup(numbers(0, 16), {}), 4u) << "the chain went leaf by leaf";
  expect_sound(cache);
}

TEST(KvCache, EvictionTakesTheLeastRecentlyUsedLeafFirst) {
  auto cache = open_cache(6);
  Tokens branch_a = numbers(0, 8), branch_b = numbers(0, 8), branch_c = numbers(0, 8);
  branch_a[4] = 100, branch_b[4] = 200, branch_c[4] = 300;
  for (const Tokens* tokens : {&branch_a, &branch_b, &branch_c}) run(cache, *tokens);
  run(cache, branch_a);
  ASSERT_EQ(cache.stats().cached_blocks, 4u);
  const auto survivors = [&] {
    std::string names;
    for (const auto& [name, tokens] : {std::pair{'a', branch_a}, {'b', branch_b}, {'c', branch_c}}) {
      if (cache.lookup(tokens, {.partial_blocks = false}) == 8) names += name;
    }
    return names;
  };
  Lease lease = cache.admit({}, {.max_tokens = 24}).value();
  EXPECT_TRUE(lease.grow(8).ok());
  EXPECT_EQ(survivors(), "abc");
  EXPECT_TRUE(lease.grow(12).ok());
  EXPECT_EQ(survivors(), "ac");
  EXPECT_TRUE(lease.grow(16).ok());
  EXPECT_EQ(survivors(), "a");
  EXPECT_TRUE(lease.grow(20).ok());
  EXPECT_EQ(survivors(), "");
  EXPECT_EQ(cache.lookup(branch_a, {}), 4u) << "the common prefix goes last";
  EXPECT_TRUE(lease.grow(24).ok());
  EXPECT_EQ(cache.lookup(branch_a, {}), 0u);
  expect_sound(cache);
}

TEST(KvCache, AnOldChainGoesWholeBeforeANewerOneIsTouched) {
  auto cache = open_cache(6);
  run(cache, numbers(0, 12));
  run(cache, numbers(100, 12));
  Lease lease = cache.admit({}, {.max_tokens = 12}).value();
  ASSERT_TRUE(lease.grow(12).ok());
  EXPECT_EQ(cache.lookup(numbers(0, 12), {}), 0u);
  EXPECT_EQ(cache.lookup(numbers(100, 12), {}), 12u);
}

TEST(KvCache, AHeldBlockIsNeverEvicted) {
  auto cache = open_cache(3);
  const Lease held = run(cache, numbers(0, 8));
  run(cache, numbers(100, 4));
  run(cache, numbers(200, 4));
  EXPECT_EQ(cache.lookup(numbers(0, 8), {}), 8u);
  EXPECT_EQ(cache.lookup(numbers(100, 4), {}), 0u);
  EXPECT_EQ(cache.admit({}, {.max_tokens = 8}).status().code(), StatusCode::Unavailable);
}

TEST(KvCache, EqualBlocksOfTwoLeasesBecomeOne) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 8);
  Lease first = cache.admit(prompt, {.max_tokens = 8}).value();
  Lease second = cache.admit(prompt, {.max_tokens = 8}).value();
  EXPECT_EQ(second.matched_tokens(), 0u);
  fill(cache, first, prompt);
  fill(cache, second, prompt);
  EXPECT_TRUE(std::ranges::equal(first.block_table(), second.block_table()));
  EXPECT_EQ(cache.stats().leased_blocks, 2u);
  first = Lease();
  EXPECT_EQ(cache.stats().leased_blocks, 2u) << "the second still holds them";
  second = Lease();
  EXPECT_EQ(cache.stats().cached_blocks, 2u);
  expect_sound(cache);
}

TEST(KvCache, EqualBlocksAreFoundAgainAfterTheirLeaseEnded) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 8);
  Lease late = cache.admit(prompt, {.max_tokens = 8}).value();
  run(cache, prompt);
  fill(cache, late, prompt);  // switches to blocks that nobody held
  EXPECT_EQ(cache.stats().leased_blocks, 2u);
  EXPECT_EQ(cache.stats().free_blocks, 6u);
  expect_sound(cache);
}

TEST(KvCache, TokensCommittedOneByOneAreSharedAllTheSame) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 9);
  Lease lease = cache.admit({}, {.max_tokens = 9}).value();
  ASSERT_TRUE(lease.grow(9).ok());
  const std::span<const TokenId> all = prompt;
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    write_kv(cache, lease.block_table(), i, kv_word(all.first(i + 1), {}, 0));
    EXPECT_EQ(cache.lookup(prompt, {}), i / 4 * 4);
    lease.commit(all.subspan(i, 1));
  }
  EXPECT_EQ(matched(cache, prompt), 8u);
}

TEST(KvCache, WhatIsNotSharedStaysPrivateAndSoDoesAllThatFollows) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 16);
  const std::span<const TokenId> all = prompt;
  Lease lease = cache.admit({}, {.max_tokens = 16}).value();
  fill(cache, lease, numbers(0, 5));
  lease.commit({}, false);  // says nothing about any token
  fill(cache, lease, numbers(0, 6), {}, false);
  fill(cache, lease, prompt);
  EXPECT_EQ(lease.committed_tokens(), 16u);
  EXPECT_EQ(cache.lookup(prompt, {}), 4u);
  EXPECT_EQ(cache.stats().leased_blocks, 4u);
  lease = Lease();
  EXPECT_EQ(cache.stats().cached_blocks, 1u);
  EXPECT_EQ(cache.stats().free_blocks, 7u);
  expect_sound(cache);
}

TEST(KvCache, SaltsAndAdaptersShareNothing) {
  auto cache = open_cache(16);
  const Tokens prompt = numbers(0, 8);
  const Lease a = run(cache, prompt, {.scope = {.salt = "a"}});
  const Lease b = run(cache, prompt, {.scope = {.salt = "b"}});
  EXPECT_EQ(b.matched_tokens(), 0u);
  EXPECT_EQ(cache.stats().leased_blocks, 4u);
  EXPECT_EQ(cache.lookup(prompt, {.scope = {.salt = "a"}}), 8u);
  EXPECT_EQ(cache.lookup(prompt, {.scope = {.salt = "b"}}), 8u);
  EXPECT_EQ(cache.lookup(prompt, {}), 0u);
  EXPECT_EQ(cache.lookup(prompt, {.scope = {.salt = "a", .adapter_id = 1}}), 0u);
  EXPECT_EQ(cache.lookup(prompt, {.scope = {.salt = std::string_view("a\0", 2)}}), 0u);
}

TEST(KvCache, WithoutPrefixReuseNothingIsMatchedOrKept) {
  auto cache = open_cache(8, false);
  const Tokens prompt = numbers(0, 8);
  const auto first = std::optional(run(cache, prompt));
  const auto second = std::optional(run(cache, prompt));
  EXPECT_EQ(second->matched_tokens(), 0u);
  EXPECT_EQ(cache.lookup(prompt, {}), 0u);
  EXPECT_EQ(cache.stats().leased_blocks, 4u);
  auto third = open_cache(8, false);
  run(third, prompt);
  EXPECT_EQ(third.stats().free_blocks, 8u);
  expect_sound(third);
}

TEST(KvCache, InvalidateAllForgetsButTakesNothingFromLeases) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 12);
  Lease lease = cache.admit(prompt, {.max_tokens = 16}).value();
  fill(cache, lease, numbers(0, 6));
  run(cache, numbers(100, 4));
  EXPECT_EQ(cache.invalidate_all(), 2u);
  EXPECT_EQ(cache.invalidate_all(), 0u);
  EXPECT_EQ(cache.lookup(prompt, {}), 0u);
  EXPECT_EQ(cache.stats().cached_blocks, 0u);
  EXPECT_EQ(cache.stats().leased_blocks, 2u);

  fill(cache, lease, prompt);  // goes on, intact, and shares nothing: its KV is from before
  EXPECT_EQ(cache.lookup(prompt, {}), 0u);
  Lease next = run(cache, prompt);
  EXPECT_EQ(next.matched_tokens(), 0u);
  EXPECT_EQ(cache.lookup(prompt, {}), 12u);
  lease = Lease();
  next = Lease();
  EXPECT_EQ(cache.stats().cached_blocks, 3u);
  EXPECT_EQ(cache.stats().free_blocks, 5u);
  expect_sound(cache);
}

TEST(KvCache, ALeaseMayOutliveTheCache) {
  const Tokens prompt = numbers(0, 8);
  std::optional<KvCache> cache = open_cache(4);
  Lease lease = cache->admit(prompt, {.max_tokens = 12}).value();
  fill(*cache, lease, prompt);
  std::byte* bytes = cache->block(lease.block_table()[0]);
  cache.reset();
  EXPECT_NE(bytes[0] | bytes[1] | bytes[2] | bytes[3], std::byte{0}) << "memory is still there";
  EXPECT_TRUE(lease.grow(12).ok());
  EXPECT_EQ(lease.block_table().size(), 3u);
  lease.commit(numbers(8, 4));
  EXPECT_EQ(lease.committed_tokens(), 12u);
}

TEST(KvCache, MovingALeaseMovesItsBlocks) {
  auto cache = open_cache(4);
  Lease first = run(cache, numbers(0, 8));
  Lease second = std::move(first);
  EXPECT_EQ(second.block_table().size(), 2u);
  EXPECT_EQ(cache.stats().leased_blocks, 2u);
  second = run(cache, numbers(100, 4));  // gives up the first two
  EXPECT_EQ(cache.stats().leased_blocks, 1u);
  EXPECT_EQ(cache.stats().cached_blocks, 2u);
}

TEST(KvCache, TokensAreAccountedFor) {
  auto cache = open_cache(8);
  const Tokens prompt = numbers(0, 10);
  run(cache, prompt);
  run(cache, prompt);
  Tokens other = prompt;
  other[7] = 70;
  run(cache, other);
  const KvCacheStats stats = cache.stats();
  EXPECT_EQ(stats.admitted, 3u);
  EXPECT_EQ(stats.prompt_tokens, 30u);
  EXPECT_EQ(stats.matched_tokens, 8u + 7u);
  EXPECT_EQ(stats.copied_tokens, 3u);
  EXPECT_EQ(stats.compare_mismatches, 0u);
  EXPECT_LE(stats.metadata_bytes, 8u * 256u + 1024u);
}

// A policy that answers nonsense: blocks that are held, are no leaves, are out of range or do not exist.
class BrokenPolicy final : public EvictionPolicy {
 public:
  void on_insert(BlockId, const BlockOrigin&) override {}
  void on_use(BlockId) override {}
  void on_evictable(BlockId) override {}
  void on_held(BlockId) override {}
  void on_remove(BlockId) override {}
  std::size_t metadata_bytes() const override { return 0; }
  BlockId victim() override { return answers_[next_++ % answers_.size()]; }

 private:
  std::array<BlockId, 4> answers_ = {0, kNoBlock, 1, 1000};
  std::size_t next_ = 0;
};

TEST(KvCache, ABrokenPolicyCannotBreakAPromise) {
  const auto broken = [](std::size_t) { return std::make_unique<BrokenPolicy>(); };
  auto cache = KvCache::open({.capacity_bytes = 8 * kLayout.block_bytes(), .eviction = broken}, kLayout, {}).value();
  Lease held = run(cache, numbers(0, 8));
  run(cache, numbers(100, 12));
  run(cache, numbers(200, 12));
  Lease lease = cache.admit({}, {.max_tokens = 24}).value();
  EXPECT_TRUE(lease.grow(24).ok());
  EXPECT_EQ(cache.stats().evicted_blocks, 6u);
  fill(cache, held, numbers(0, 8));  // its bytes are untouched
}

}  // namespace
}  // namespace tiercel
