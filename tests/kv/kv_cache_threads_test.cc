// Threads that admit, write, commit, release, look up and invalidate at once. Run it under ThreadSanitizer: block bytes
// are written and read without any lock of the test's own, so only the cache's can order them.
#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kv/kv_cache_state.h"
#include "tests/kv/kv_pattern.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;

TEST(KvCacheThreads, EveryHitHasTheRightBytes) {
  const KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};
  auto cache = KvCache::open({.capacity_bytes = 24 * BlockMemory::stride_of(layout.block_bytes())}, layout, {}).value();
  std::atomic<std::uint64_t> wrong_answers = 0, refused = 0, matched = 0, prompt_tokens = 0, failed_grows = 0;

  const auto work = [&](std::uint64_t seed) {
    std::mt19937_64 random(seed);
    struct Running {
      Lease lease;
      Tokens tokens;
    };
    std::vector<Running> running;
    const auto verify = [&](const Running& each) {
      for (std::size_t i = 0; i < each.lease.committed_tokens(); ++i) {
        const std::uint64_t word = kv_word(std::span(each.tokens).first(i + 1), {}, 0);
        if (!holds_kv(cache, each.lease.block_table(), i, word)) ++wrong_answers;
      }
    };
    for (int step = 0; step < 3000; ++step) {
      if (running.size() >= 3 || (!running.empty() && random() % 3 == 0)) {
        verify(running.front());
        running.erase(running.begin());
      }
      Tokens tokens(1 + random() % 20);
      for (TokenId& token : tokens) token = random() % 8 == 0 ? 1 : 0;
      const AdmitOptions options{.max_tokens = tokens.size() + 4};
      auto admitted = cache.admit(tokens, options);
      if (!admitted.ok()) {
        ++refused;
        running.clear();
        continue;
      }
      prompt_tokens += tokens.size();
      matched += admitted->matched_tokens();
      running.push_back({*std::move(admitted), tokens});
      Running& newest = running.back();
      verify(newest);
      if (!newest.lease.grow(tokens.size()).ok()) ++failed_grows;
      while (newest.lease.committed_tokens() < tokens.size()) {
        const std::size_t from = newest.lease.committed_tokens();
        const std::size_t count = std::min<std::size_t>(tokens.size() - from, 1 + random() % 6);
        for (std::size_t i = from; i < from + count; ++i) {
          write_kv(cache, newest.lease.block_table(), i, kv_word(std::span(tokens).first(i + 1), {}, 0));
        }
        newest.lease.commit(std::span(tokens).subspan(from, count));
      }
      verify(newest);
      if (random() % 64 == 0) cache.invalidate_all();
      if (random() % 16 == 0 && cache.lookup(tokens, {}) > tokens.size()) ++wrong_answers;
      if (random() % 16 == 0 && !KvCacheState::of(cache).audit().empty()) ++wrong_answers;
    }
    for (const Running& each : running) verify(each);
  };

  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(wrong_answers, 0u);
  EXPECT_EQ(failed_grows, 0u);
  const KvCacheStats stats = cache.stats();
  EXPECT_EQ(stats.leased_blocks, 0u);
  EXPECT_EQ(stats.promised_blocks, 0u);
  EXPECT_EQ(stats.prompt_tokens, prompt_tokens);
  EXPECT_EQ(stats.matched_tokens, matched);
  EXPECT_GT(matched, 0u);
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
}

TEST(KvCacheThreads, TheLastLeaseOnAnotherThreadEndsTheCache) {
  const KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};
  for (int i = 0; i < 50; ++i) {
    auto cache = std::make_unique<KvCache>(KvCache::open({.capacity_bytes = 1 << 12}, layout, {}).value());
    Lease lease = cache->admit({}, {.max_tokens = 8}).value();
    std::thread other([&lease] {
      const Lease mine = std::move(lease);
      EXPECT_EQ(mine.matched_tokens(), 0u);
    });
    cache.reset();
    other.join();
  }
}

}  // namespace
}  // namespace tiercel
