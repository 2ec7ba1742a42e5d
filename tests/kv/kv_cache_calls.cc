#include "tests/kv/kv_cache_calls.h"

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "kv/kv_cache_state.h"
#include "tests/fuzz/expect.h"

namespace tiercel {
namespace {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const std::uint8_t next = rest_.front();
    rest_ = rest_.subspan(1);
    return next;
  }
  std::size_t below(std::size_t limit) { return byte() % limit; }

 private:
  std::span<const std::uint8_t> rest_;
};

struct Sequence {
  Lease lease;
  std::vector<TokenId> tokens;
  std::size_t max_tokens = 0;
};

struct Waiting {
  std::vector<TokenId> tokens;  // before the handle, which points to them
  ExpectedPrompt expected;
};

ContentKey same_key(const ContentKey&, std::span<const std::byte>) { return {.low = 1, .high = 1}; }

std::vector<TokenId> draw_tokens(Input& input) {
  std::vector<TokenId> tokens(input.below(16));
  // Two tokens only, so that prefixes meet.
  std::uint8_t bits = input.byte();
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = (bits >> (i % 8)) & 1;
  return tokens;
}

}  // namespace

void run_calls(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::uint8_t shape = input.byte();
  const KvLayout layout{
      .layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 1u + shape % 4u, .dtype = DType::F16};
  const std::size_t blocks = 4 + input.below(12);
  const std::size_t stride = BlockMemory::stride_of(layout.block_bytes());
  const KvGroup two_groups[] = {{}, {.window_tokens = 3}};
  const bool has_groups = (shape & 8) != 0;
  const EvictionPolicyFactory policies[] = {lru(), lfu(), adaptive()};
  std::uint64_t now_ms = 1;
  auto opened = KvCacheState::open(
      {.capacity_bytes = blocks * stride,
       .eviction = policies[(shape >> 4) % 3],
       .tenant_quota_bytes = (shape & 64) != 0 ? 4 * stride : 0},
      layout, {}, has_groups ? std::span<const KvGroup>(two_groups) : std::span<const KvGroup>(),
      {.key_function = (shape & 128) != 0 ? same_key : xxh3_key, .now_ms = [&now_ms] { return now_ms; }});
  TIERCEL_FUZZ_EXPECT(opened.ok());
  KvCache cache = *std::move(opened);
  std::vector<Sequence> running;
  std::vector<Waiting> waiting;

  while (!input.empty()) {
    const std::uint8_t call = input.byte();
    const PrefixScope scope{.salt = (call & 128) != 0 ? "a" : "", .adapter_id = 0};
    const Retention retention{.priority = static_cast<RetentionPriority>((call >> 5) % 3),
                              .ttl_ms = (call & 64) != 0 ? 5u : 0u};
    switch (call % 13) {
      case 0:
      case 1: {
        Sequence sequence{.lease = {}, .tokens = draw_tokens(input)};
        sequence.max_tokens = sequence.tokens.size() + input.below(8);
        auto lease =
            cache.admit(sequence.tokens, {.max_tokens = sequence.max_tokens, .scope = scope, .retention = retention});
        if (!lease.ok()) break;
        sequence.lease = *std::move(lease);
        TIERCEL_FUZZ_EXPECT(sequence.lease.matched_tokens() <= sequence.tokens.size());
        running.push_back(std::move(sequence));
        break;
      }
      case 2:
      case 3: {
        if (running.empty()) break;
        Sequence& sequence = running[input.below(running.size())];
        const std::size_t committed = sequence.lease.committed_tokens();
        while (sequence.tokens.size() < sequence.max_tokens && input.below(2) == 0) sequence.tokens.push_back(1);
        TIERCEL_FUZZ_EXPECT(sequence.lease.grow(sequence.tokens.size()).ok());
        sequence.lease.commit(std::span(sequence.tokens).subspan(committed), input.below(8) != 0);
        break;
      }
      case 4: {
        if (running.empty()) break;
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(input.below(running.size())));
        break;
      }
      case 5: {
        if (running.empty()) break;
        const Sequence& source = running[input.below(running.size())];
        Sequence copy{.lease = {}, .tokens = source.tokens};
        copy.tokens.resize(source.lease.committed_tokens());
        copy.max_tokens = copy.tokens.size() + input.below(8);
        if (auto lease = source.lease.fork(copy.max_tokens); lease.ok()) {
          copy.lease = *std::move(lease);
          running.push_back(std::move(copy));
        }
        break;
      }
      case 6: {
        waiting.push_back({.tokens = draw_tokens(input), .expected = {}});
        waiting.back().expected = cache.expect(waiting.back().tokens, {.scope = scope});
        break;
      }
      case 7:
        if (!waiting.empty()) waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(input.below(waiting.size())));
        break;
      case 8: static_cast<void>(cache.pin(draw_tokens(input), scope, input.below(8)).ok()); break;
      case 9: cache.unpin(draw_tokens(input), scope); break;
      case 10:
        switch (input.below(4)) {
          case 0: cache.invalidate_all(); break;
          case 1: cache.invalidate_tenant(scope.salt); break;
          default: cache.invalidate(draw_tokens(input), scope);
        }
        break;
      case 11: cache.warm(draw_tokens(input), {.scope = scope, .retention = retention}); break;
      case 12:
        now_ms += input.below(8);
        static_cast<void>(cache.set_tenant_quota(scope.salt, input.below(5) * stride).ok());
        break;
    }
    for (const Waiting& each : waiting) TIERCEL_FUZZ_EXPECT(each.expected.cached_tokens() <= each.tokens.size());
    const std::string wrong = KvCacheState::of(cache).audit();
    if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
    TIERCEL_FUZZ_EXPECT(wrong.empty());
  }

  running.clear();
  waiting.clear();
  cache.invalidate_all();
  const KvCacheStats stats = cache.stats();
  TIERCEL_FUZZ_EXPECT(stats.free_blocks == blocks && stats.promised_blocks == 0 && stats.pinned_blocks == 0);
  TIERCEL_FUZZ_EXPECT(KvCacheState::of(cache).roots() == 0);
}

}  // namespace tiercel
