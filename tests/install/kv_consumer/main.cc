// A server of somebody else's: its own model runner, tiercel's KV cache. Two requests share a prefix; the second one
// must find it, with the bytes that the first one wrote.
#include <tiercel/kv_cache.h>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#define CHECK(condition) \
  if (!(condition)) return std::printf("line %d: " #condition " does not hold\n", __LINE__), 1

int main() {
  const tiercel::KvLayout layout{
      .layers = 2, .kv_heads = 1, .head_dim = 16, .block_tokens = 32, .dtype = tiercel::DType::F16};
  auto opened = tiercel::KvCache::open({.capacity_bytes = std::size_t{1} << 20}, layout, {});
  CHECK(opened.ok());
  tiercel::KvCache cache = std::move(opened).value();

  std::vector<tiercel::TokenId> prompt(80);
  std::iota(prompt.begin(), prompt.end(), 100);
  const std::span<const tiercel::TokenId> tokens(prompt);
  {
    auto lease = cache.admit(prompt, {.max_tokens = 100});
    CHECK(lease.ok());
    CHECK(lease->matched_tokens() == 0);
    CHECK(lease->grow(prompt.size()).ok());
    int value = 1;
    for (const tiercel::BlockId id : lease->block_table()) std::memset(cache.block(id), value++, layout.block_bytes());
    lease->commit(tokens);
    CHECK(lease->committed_tokens() == prompt.size());
  }

  // The same first 64 tokens, two whole blocks, and others from there on.
  for (std::size_t i = 64; i < prompt.size(); ++i) prompt[i] += 1000;
  auto lease = cache.admit(prompt, {.max_tokens = 100});
  CHECK(lease.ok());
  CHECK(lease->matched_tokens() == 64);
  for (int i = 0; i < 2; ++i) CHECK(static_cast<int>(*cache.block(lease->block_table()[i])) == i + 1);
  CHECK(cache.stats().matched_tokens == 64);

  // Another salt, such as another tenant's, finds nothing.
  CHECK(cache.lookup(prompt, {.scope = {.salt = "tenant"}}) == 0);
  std::puts("a prefix of 64 tokens was found");
  return 0;
}
