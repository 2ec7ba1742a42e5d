// What the KV cache itself costs: finding, admitting, committing and evicting, without any computing of KV.
//
// `per_token` is the time per prompt token. Its bounds are measured in the same run: `compare_tokens`, for every hit is
// proven by comparing tokens, and `hash_tokens`, for every block is found by its key; an admit() does both. Where an
// index does not fit the processor's caches, `compare_scattered_tokens` is what memory allows. Blocks are 1 KiB (64
// bytes for the large indexes), so that the cost of KV bytes themselves stays out.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kv/content_key.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

constexpr std::size_t kTokens = 50'000;
constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 32, .dtype = DType::F16};

std::vector<TokenId> prompt_number(TokenId number) {
  std::vector<TokenId> prompt(kTokens);
  std::iota(prompt.begin(), prompt.end(), 0);
  prompt[0] = -number;  // the first token decides the key of every block
  return prompt;
}

// A cache that holds `prompts` prompts of kTokens, and no more.
KvCache open_cache(std::size_t prompts) {
  const std::size_t blocks = prompts * (kTokens / kLayout.block_tokens + 1);
  return KvCache::open({.capacity_bytes = blocks * kLayout.block_bytes()}, kLayout, {}).value();
}

void compute_and_leave(KvCache& cache, const std::vector<TokenId>& prompt) {
  Lease lease = cache.admit(prompt, {.max_tokens = prompt.size()}).value();
  if (!lease.grow(prompt.size()).ok()) std::abort();
  lease.commit(std::span(prompt).subspan(lease.matched_tokens()));
}

void report(benchmark::State& state) {
  using benchmark::Counter;
  const double tokens = static_cast<double>(state.iterations()) * kTokens;
  state.counters["per_token"] = Counter(tokens, Counter::kIsRate | Counter::kInvert);
}

void compare_tokens(benchmark::State& state) {
  const auto left = prompt_number(1), right = prompt_number(1);
  for (auto _ : state) benchmark::DoNotOptimize(std::memcmp(left.data(), right.data(), kTokens * sizeof(TokenId)));
  report(state);
}
BENCHMARK(compare_tokens)->Unit(benchmark::kMicrosecond);

// The keys of a prompt's blocks, chained.
void hash_tokens(benchmark::State& state) {
  const auto prompt = prompt_number(1);
  for (auto _ : state) {
    ContentKey key;
    for (std::size_t i = 0; i + kLayout.block_tokens <= kTokens; i += kLayout.block_tokens) {
      key = child_key(xxh3_key, key, std::span(prompt).subspan(i, kLayout.block_tokens));
    }
    benchmark::DoNotOptimize(key);
  }
  report(state);
}
BENCHMARK(hash_tokens)->Unit(benchmark::kMicrosecond);

// Block after block at random places of 512 MiB: what comparing costs where nothing is in the processor's caches.
void compare_scattered_tokens(benchmark::State& state) {
  const auto prompt = prompt_number(1);
  const std::size_t blocks = std::size_t{4} << 20;
  const std::vector<TokenId> stored(blocks * kLayout.block_tokens, 7);
  std::mt19937_64 random(1);
  for (auto _ : state) {
    for (std::size_t i = 0; i + kLayout.block_tokens <= kTokens; i += kLayout.block_tokens) {
      const TokenId* block = stored.data() + random() % blocks * kLayout.block_tokens;
      benchmark::DoNotOptimize(std::memcmp(block, prompt.data() + i, kLayout.block_tokens * sizeof(TokenId)));
    }
  }
  report(state);
}
BENCHMARK(compare_scattered_tokens)->Unit(benchmark::kMicrosecond);

// A cache with one prompt in it that the threads of a benchmark share.
class CachedPrompt : public benchmark::Fixture {
 public:
  void SetUp(const benchmark::State& state) override {
    if (state.thread_index() != 0) return;
    cache_ = std::make_unique<KvCache>(open_cache(2));
    compute_and_leave(*cache_, prompt_);
  }
  void TearDown(const benchmark::State& state) override {
    if (state.thread_index() == 0) cache_.reset();
  }

 protected:
  const std::vector<TokenId> prompt_ = prompt_number(1);
  std::unique_ptr<KvCache> cache_;
};

BENCHMARK_DEFINE_F(CachedPrompt, admit)(benchmark::State& state) {
  for (auto _ : state) {
    auto lease = cache_->admit(prompt_, {.max_tokens = kTokens, .max_matched_tokens = kTokens - 1});
    if (!lease.ok() || lease->matched_tokens() < kTokens - kLayout.block_tokens) state.SkipWithError("not found");
  }
  report(state);
}
BENCHMARK_REGISTER_F(CachedPrompt, admit)->Threads(1)->Threads(2)->UseRealTime()->Unit(benchmark::kMicrosecond);

BENCHMARK_DEFINE_F(CachedPrompt, lookup)(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(cache_->lookup(prompt_, {}));
  report(state);
}
BENCHMARK_REGISTER_F(CachedPrompt, lookup)->Threads(1)->Threads(2)->UseRealTime()->Unit(benchmark::kMicrosecond);

// Prompts of 50,000 tokens, found at random in an index full of such: `blocks` of it. A block that comes later was
// committed later, so its neighbours in memory are its own prompt's only.
void admit_from_full_index(benchmark::State& state) {
  constexpr KvLayout kTiny{.layers = 1, .kv_heads = 1, .head_dim = 1, .block_tokens = 32, .dtype = DType::F16};
  const auto blocks = static_cast<std::size_t>(state.range(0));
  const std::size_t prompts = blocks / (kTokens / kTiny.block_tokens + 1);
  auto cache = KvCache::open({.capacity_bytes = blocks * 128}, kTiny, {}).value();
  auto prompt = prompt_number(0);
  for (std::size_t i = 1; i <= prompts; ++i) {
    prompt[0] = -static_cast<TokenId>(i);
    compute_and_leave(cache, prompt);
  }
  std::mt19937_64 random(1);
  for (auto _ : state) {
    prompt[0] = -static_cast<TokenId>(1 + random() % prompts);
    auto lease = cache.admit(prompt, {.max_tokens = kTokens, .max_matched_tokens = kTokens - 1});
    if (!lease.ok() || lease->matched_tokens() < kTokens - kTiny.block_tokens) state.SkipWithError("not found");
  }
  report(state);
  state.counters["metadata_per_block"] =
      static_cast<double>(cache.stats().metadata_bytes) / static_cast<double>(cache.stats().capacity_blocks);
}
BENCHMARK(admit_from_full_index)->ArgName("blocks")->Arg(40'000)->Arg(4'000'000)->Unit(benchmark::kMicrosecond);

// A prompt that was never seen, into an empty cache.
void miss_and_commit(benchmark::State& state) {
  KvCache cache = open_cache(1);
  const auto prompt = prompt_number(1);
  for (auto _ : state) {
    compute_and_leave(cache, prompt);
    state.PauseTiming();
    cache.invalidate_all();
    state.ResumeTiming();
  }
  report(state);
}
BENCHMARK(miss_and_commit)->Unit(benchmark::kMicrosecond);

// The same into a full cache: every block that is taken must first be evicted, as each policy decides.
void miss_and_evict(benchmark::State& state, const EvictionPolicyFactory& policy) {
  const std::size_t blocks = 3 * (kTokens / kLayout.block_tokens + 1);
  auto cache =
      KvCache::open({.capacity_bytes = blocks * kLayout.block_bytes(), .eviction = policy}, kLayout, {}).value();
  TokenId number = 1;
  while (number < 4) compute_and_leave(cache, prompt_number(number++));
  auto prompt = prompt_number(0);
  const auto evicted_before = cache.stats().evicted_blocks;
  for (auto _ : state) {
    prompt[0] = -number++;
    compute_and_leave(cache, prompt);
  }
  report(state);
  const auto evicted = static_cast<double>(cache.stats().evicted_blocks - evicted_before);
  state.counters["evictions"] = benchmark::Counter(evicted, benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(miss_and_evict, lru, lru())->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(miss_and_evict, lfu, lfu())->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(miss_and_evict, adaptive, adaptive())->Unit(benchmark::kMicrosecond);

// A waiting prompt, from expect() to its end.
BENCHMARK_DEFINE_F(CachedPrompt, expect)(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(cache_->expect(prompt_, {}).cached_tokens());
  report(state);
}
BENCHMARK_REGISTER_F(CachedPrompt, expect)->Unit(benchmark::kMicrosecond);

// One more sample of a prompt.
BENCHMARK_DEFINE_F(CachedPrompt, fork)(benchmark::State& state) {
  const Lease source = cache_->admit(prompt_, {.max_tokens = kTokens}).value();
  for (auto _ : state) benchmark::DoNotOptimize(source.fork(kTokens).ok());
  report(state);
}
BENCHMARK_REGISTER_F(CachedPrompt, fork)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tiercel
