// Threads that do everything to one cache at once: own sequences with shared prefixes, forks, waiting prompts, pins,
// quotas, invalidation. Run it under ThreadSanitizer: blocks are written and read without a lock of the test's own.
#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kv/kv_cache_state.h"
#include "tests/kv/kv_pattern.h"
#include "tests/sim/model.h"
#include "tiercel/kv_cache.h"

namespace tiercel::sim {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr int kSteps = 50'000;
#else
constexpr int kSteps = 200'000;
#endif
constexpr std::uint64_t kThreads = 4;
constexpr KvLayout kLayout{.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};
constexpr std::size_t kStride = BlockMemory::stride_of(kLayout.block_bytes());

using Tokens = std::vector<TokenId>;

// What all threads share.
struct Shared {
  KvCache cache;
  std::size_t groups = 1;
  std::atomic<std::uint64_t>& now_ms;
  std::atomic<std::uint64_t> wrong = 0, matched = 0, forks = 0, pins = 0, flights = 0, refused = 0;
};

class Worker {
 public:
  Worker(Shared& shared, std::uint64_t seed) : shared_(shared), random_(seed) {}

  void run() {
    for (int step = 0; step < kSteps; ++step) act();
    while (!running_.empty()) end(0);
  }

 private:
  struct Running {
    Lease lease;
    Tokens tokens;
    std::size_t scope = 0;
    std::size_t max_tokens = 0;
  };

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  void expect(bool condition) { shared_.wrong += !condition; }
  // Few different ones, so that threads meet.
  Tokens draw() {
    Tokens tokens(1 + below(20));
    for (TokenId& token : tokens) token = below(8) == 0 ? 1 : 0;
    return tokens;
  }

  void act() {
    const std::size_t scope = below(kScopes);
    const Tokens tokens = draw();
    const AdmitOptions options{.max_tokens = tokens.size() + below(8),
                               .scope = scope_of(scope),
                               .retention = {.priority = static_cast<RetentionPriority>(below(3)), .ttl_ms = below(9)}};
    const std::uint64_t dice = below(100);
    if (dice < 35) {
      begin(shared_.cache.admit(tokens, options), tokens, scope, options.max_tokens);
    } else if (dice < 50) {
      if (!running_.empty()) compute(running_[below(running_.size())]);
    } else if (dice < 70) {
      if (!running_.empty()) end(below(running_.size()));
    } else if (dice < 76) {
      if (!running_.empty()) fork(running_[below(running_.size())]);
    } else if (dice < 84) {
      wait(tokens, options);
    } else if (dice < 88) {
      shared_.pins += shared_.cache.pin(tokens, scope_of(scope), below(30)).ok();
    } else if (dice < 90) {
      shared_.cache.unpin(tokens, scope_of(scope));
    } else if (dice < 93) {
      shared_.cache.warm(tokens, options);
      ++shared_.now_ms;
    } else if (dice < 95) {
      expect(shared_.cache.set_tenant_quota(scope_of(scope).salt, below(12) * kStride).ok());
    } else if (dice < 97) {
      invalidate(tokens, scope);
    } else {
      expect(KvCacheState::of(shared_.cache).audit().empty());
      const KvCacheStats stats = shared_.cache.stats();
      expect(stats.free_blocks + stats.leased_blocks + stats.cached_blocks == stats.capacity_blocks);
      expect(stats.promised_blocks <= stats.free_blocks + stats.cached_blocks);
    }
  }

  void begin(Result<Lease> lease, const Tokens& tokens, std::size_t scope, std::size_t max_tokens) {
    if (!lease.ok()) {
      ++shared_.refused;
      if (!running_.empty()) end(0);
      return;
    }
    shared_.matched += lease->matched_tokens();
    running_.push_back({.lease = *std::move(lease), .tokens = tokens, .scope = scope, .max_tokens = max_tokens});
    verify(running_.back());
    if (below(4) != 0) compute(running_.back());
    if (running_.size() > 3) end(0);
  }

  void fork(const Running& source) {
    Tokens tokens = source.tokens;
    tokens.resize(source.lease.committed_tokens());
    const std::size_t max_tokens = tokens.size() + below(8);
    auto lease = source.lease.fork(max_tokens);
    shared_.forks += lease.ok();
    while (tokens.size() < max_tokens) tokens.push_back(static_cast<TokenId>(below(2)));
    begin(std::move(lease), tokens, source.scope, max_tokens);
  }

  void wait(const Tokens& tokens, const AdmitOptions& options) {
    const ExpectedPrompt expected = shared_.cache.expect(tokens, options);
    for (std::uint64_t i = below(4); i-- > 0;) {
      expect(expected.cached_tokens() <= tokens.size());
      shared_.flights += expected.in_flight();
      expect(shared_.cache.lookup(tokens, options) <= tokens.size());
    }
  }

  void invalidate(const Tokens& tokens, std::size_t scope) {
    switch (below(8)) {
      case 0: shared_.cache.invalidate_all(); break;
      case 1: shared_.cache.invalidate_tenant(scope_of(scope).salt); break;
      default: shared_.cache.invalidate(tokens, scope_of(scope));
    }
  }

  std::uint64_t word(const Running& running, std::size_t position, std::size_t group) const {
    const Scope& scope = scope_of(running.scope);
    return mix(kv_word(std::span(running.tokens).first(position + 1), scope.salt, scope.adapter_id), group);
  }

  void compute(Running& running) {
    const std::size_t end = running.tokens.size() - std::min<std::size_t>(running.tokens.size(), below(2));
    expect(running.lease.grow(running.tokens.size()).ok());
    while (running.lease.committed_tokens() < end) {
      const std::size_t first = running.lease.committed_tokens();
      const std::size_t count = std::min<std::size_t>(end - first, 1 + below(6));
      for (std::size_t group = 0; group < shared_.groups; ++group) {
        for (std::size_t i = first; i < first + count; ++i) {
          write_kv(shared_.cache, running.lease.block_table(group), i, word(running, i, group));
        }
      }
      running.lease.commit(std::span(running.tokens).subspan(first, count), below(16) != 0);
    }
    verify(running);
  }

  void verify(const Running& running) {
    for (std::size_t group = 0; group < shared_.groups; ++group) {
      const auto table = running.lease.block_table(group);
      for (std::size_t i = 0; i < running.lease.committed_tokens(); ++i) {
        if (table[i / kLayout.block_tokens] == kNoBlock) continue;
        expect(holds_kv(shared_.cache, table, i, word(running, i, group)));
      }
    }
  }

  void end(std::size_t index) {
    verify(running_[index]);
    std::swap(running_[index], running_.back());
    running_.pop_back();
  }

  Shared& shared_;
  std::mt19937_64 random_;
  std::vector<Running> running_;
};

void run_threads(const EvictionPolicyFactory& eviction, std::span<const KvGroup> groups) {
  constexpr std::size_t kBlocks = 40;
  std::atomic<std::uint64_t> now_ms = 1000;
  Shared shared{
      .cache = KvCacheState::open(
                   {.capacity_bytes = kBlocks * kStride, .eviction = eviction, .tenant_quota_bytes = SIZE_MAX}, kLayout,
                   {}, groups, {.now_ms = [&now_ms] { return now_ms.load(); }})
                   .value(),
      .groups = std::max<std::size_t>(1, groups.size()),
      .now_ms = now_ms};
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= kThreads; ++seed) {
    threads.emplace_back([&shared, seed] { Worker(shared, seed).run(); });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(shared.wrong, 0u);
  for (const auto* reached : {&shared.matched, &shared.forks, &shared.pins, &shared.refused}) EXPECT_GT(*reached, 0u);
  KvCacheState& state = KvCacheState::of(shared.cache);
  EXPECT_EQ(state.audit(), "");
  EXPECT_EQ(shared.cache.stats().promised_blocks, 0u);
  EXPECT_EQ(shared.cache.stats().leased_blocks, shared.cache.stats().pinned_blocks) << "pins alone hold blocks";
  shared.cache.invalidate_all();
  for (const std::uint32_t count : state.references()) EXPECT_EQ(count, 0u);
  EXPECT_EQ(shared.cache.stats().free_blocks, kBlocks);
  EXPECT_EQ(shared.cache.stats().pinned_blocks, 0u);
  EXPECT_EQ(state.roots(), 0u);
}

TEST(SimulationOfThreads, OneGroup) { run_threads(lru(), {}); }
TEST(SimulationOfThreads, AdaptiveEviction) { run_threads(adaptive(), {}); }
TEST(SimulationOfThreads, Windows) {
  const KvGroup groups[] = {{}, {.window_tokens = 6}};
  run_threads(lfu(), groups);
}

}  // namespace
}  // namespace tiercel::sim
