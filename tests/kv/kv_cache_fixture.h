// A small cache with a clock that the test turns, and a runner that writes what kv_pattern.h says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "kv/kv_cache_state.h"
#include "tests/kv/kv_pattern.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

using Tokens = std::vector<TokenId>;

// `count` tokens from `first` on.
inline Tokens numbers(TokenId first, std::size_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

inline Tokens operator+(Tokens left, const Tokens& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

class KvCacheFixture : public testing::Test {
 protected:
  // Four tokens per block, 64 bytes per token.
  static constexpr KvLayout kLayout{.layers = 2, .kv_heads = 2, .head_dim = 4, .block_tokens = 4, .dtype = DType::F16};
  static std::size_t bytes(std::size_t blocks) { return blocks * kLayout.block_bytes(); }

  // `options.capacity_bytes` is overwritten.
  KvCache open(std::size_t blocks, KvCacheOptions options = {}, std::span<const KvGroup> groups = {}) {
    options.capacity_bytes = bytes(blocks);
    if (!options.eviction) options.eviction = lru();
    return KvCacheState::open(options, kLayout, {}, groups, {.now_ms = [this] { return now_ms; }}).value();
  }

  // Covers, writes and commits what is not committed yet.
  static void compute(KvCache& cache, Lease& lease, std::span<const TokenId> tokens, std::string_view salt = {}) {
    ASSERT_TRUE(lease.grow(tokens.size()).ok());
    for (std::size_t i = lease.committed_tokens(); i < tokens.size(); ++i) {
      write_kv(cache, lease.block_table(), i, kv_word(tokens.first(i + 1), salt, 0));
    }
    lease.commit(tokens.subspan(lease.committed_tokens()));
  }
  static void expect_bytes(KvCache& cache, const Lease& lease, std::span<const TokenId> tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      ASSERT_TRUE(holds_kv(cache, lease.block_table(), i, kv_word(tokens.first(i + 1), {}, 0))) << "token " << i;
    }
  }
  static Lease admit(KvCache& cache, const Tokens& tokens, AdmitOptions options = {}) {
    options.max_tokens = std::max(options.max_tokens, tokens.size());
    return cache.admit(tokens, options).value();
  }
  // Admits and computes; the lease ends where the caller lets it.
  static Lease run(KvCache& cache, const Tokens& tokens, const AdmitOptions& options = {}) {
    Lease lease = admit(cache, tokens, options);
    compute(cache, lease, tokens, options.scope.salt);
    return lease;
  }
  static std::size_t found(KvCache& cache, const Tokens& tokens, std::string_view salt = {}) {
    return cache.lookup(tokens, {.scope = {.salt = salt}});
  }
  // Whatever happened: with every lease gone, nothing may be left over.
  static void expect_all_returned(KvCache& cache) {
    EXPECT_EQ(KvCacheState::of(cache).audit(), "");
    EXPECT_EQ(cache.stats().leased_blocks, 0u);
    EXPECT_EQ(cache.stats().promised_blocks, 0u);
    cache.invalidate_all();
    EXPECT_EQ(cache.stats().free_blocks, cache.stats().capacity_blocks);
    EXPECT_EQ(KvCacheState::of(cache).roots(), 0u);
  }

  std::uint64_t now_ms = 1000;
};

}  // namespace tiercel
