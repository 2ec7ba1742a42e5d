// What the KV cache itself costs: finding, admitting, committing and evicting, without any computing of KV.
//
// `per_token` is the time per prompt token. The least it can be is that of `compare_tokens`, measured in the same run:
// every hit is proven by comparing tokens. Blocks are 1 KiB, so that the cost of KV bytes themselves stays out.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

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

// The same into a full cache: every block that is taken must first be evicted.
void miss_and_evict(benchmark::State& state) {
  KvCache cache = open_cache(3);
  TokenId number = 1;
  while (number < 4) compute_and_leave(cache, prompt_number(number++));
  auto prompt = prompt_number(0);
  const auto evicted_before = cache.stats().evicted_blocks;
  for (auto _ : state) {
    prompt[0] = -number++;
    compute_and_leave(cache, prompt);
  }
  report(state);
  state.counters["evicted_per_prompt"] =
      static_cast<double>(cache.stats().evicted_blocks - evicted_before) / static_cast<double>(state.iterations());
}
BENCHMARK(miss_and_evict)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tiercel
