// What the cache knows of how a sequence went on: for speculative decoding.
#include <random>

#include <gtest/gtest.h>

#include "tests/kv/kv_cache_fixture.h"

namespace tiercel {
namespace {

class KvCacheContinuation : public KvCacheFixture {
 protected:
  // A lease that has computed the tokens.
  static Lease lease_of(KvCache& cache, const Tokens& tokens, AdmitOptions options = {}) {
    options.max_tokens = 64;
    Lease lease = cache.admit(std::span(tokens).first(1), options).value();
    compute(cache, lease, tokens, options.scope.salt);
    return lease;
  }
  static Tokens continuation(const Lease& lease, const Tokens& next, std::size_t most = 64) {
    Tokens out(most, -1);
    out.resize(lease.continuation(next, out));
    return out;
  }
};

TEST_F(KvCacheContinuation, IsWhatFollowedLastTime) {
  KvCache cache = open(32);
  lease_of(cache, numbers(0, 19));
  const Lease lease = lease_of(cache, numbers(0, 6));
  EXPECT_EQ(continuation(lease, {}), numbers(6, 13)) << "full blocks, then how it ended";
  EXPECT_EQ(continuation(lease, {6}), numbers(7, 12));
  EXPECT_EQ(continuation(lease, {6, 7}), numbers(8, 11)) << "the open block is full with these";
  EXPECT_EQ(continuation(lease, numbers(6, 11)), numbers(17, 2)) << "`next` reaches over blocks";
  EXPECT_EQ(continuation(lease, numbers(6, 13)), Tokens());
  EXPECT_EQ(continuation(lease, {6}, 3), numbers(7, 3));
  EXPECT_EQ(continuation(lease, {6}, 0), Tokens());
  EXPECT_EQ(continuation(lease, {5}), Tokens()) << "nobody went on like this";
  EXPECT_EQ(continuation(Lease(), {}), Tokens());
}

TEST_F(KvCacheContinuation, OfSeveralItIsTheLatestThatFits) {
  KvCache cache = open(64);
  const Tokens stem = numbers(0, 5);
  lease_of(cache, stem + numbers(100, 8));
  lease_of(cache, stem + numbers(200, 8));
  const Lease lease = lease_of(cache, stem);
  EXPECT_EQ(continuation(lease, {}), numbers(200, 8));
  EXPECT_EQ(continuation(lease, {100}), numbers(101, 7));
  // Ends of sequences, behind one block.
  lease_of(cache, numbers(0, 4) + numbers(300, 2));
  lease_of(cache, numbers(0, 4) + numbers(400, 3));
  lease_of(cache, numbers(0, 4) + numbers(300, 1));
  const Lease block = lease_of(cache, numbers(0, 4));
  EXPECT_EQ(continuation(block, {300}), Tokens({301})) << "one that stopped earlier says nothing";
  EXPECT_EQ(continuation(block, {400}), Tokens({401, 402}));
}

TEST_F(KvCacheContinuation, IsNeverAnothersNorWhatWasForgotten) {
  KvCache cache = open(64);
  lease_of(cache, numbers(0, 19), {.scope = {.salt = "one"}});
  {
    const Lease other = lease_of(cache, numbers(0, 6), {.scope = {.salt = "two"}});
    EXPECT_EQ(continuation(other, {}), Tokens());
  }
  const Lease lease = lease_of(cache, numbers(0, 6), {.scope = {.salt = "one"}});
  EXPECT_EQ(continuation(lease, {}).size(), 13u);
  cache.invalidate(numbers(0, 12), {.salt = "one"});
  EXPECT_EQ(continuation(lease, {}), numbers(6, 2)) << "its own block's neighbour is left";
  cache.invalidate_all();
  EXPECT_EQ(continuation(lease, {}), Tokens());
}

TEST_F(KvCacheContinuation, GoesWithItsTime) {
  KvCache cache = open(64);
  lease_of(cache, numbers(0, 11), {.retention = {.ttl_ms = 100}});
  const Lease lease = lease_of(cache, numbers(0, 5));
  EXPECT_EQ(continuation(lease, {}), numbers(5, 3)) << "ends of what has a time are not kept";
  now_ms += 200;
  EXPECT_EQ(continuation(lease, {}), Tokens());
}

TEST_F(KvCacheContinuation, NeedsSharedBlocks) {
  KvCache cache = open(64);
  lease_of(cache, numbers(0, 11));
  Lease lease = admit(cache, numbers(0, 9), {.max_tokens = 20});
  ASSERT_TRUE(lease.grow(9).ok());
  lease.commit(std::span<const TokenId>(numbers(0, 9)).subspan(lease.committed_tokens()), /*share=*/false);
  EXPECT_EQ(continuation(lease, {}), Tokens());
  KvCache off = open(64, {.prefix_reuse = false});
  lease_of(off, numbers(0, 11));
  EXPECT_EQ(continuation(lease_of(off, numbers(0, 6)), {}), Tokens());
}

// Random sequences through a cache that has room for some of them: whatever it says, some sequence of that scope went
// on so; and where nothing was evicted, a sequence that comes again hears all of itself.
TEST_F(KvCacheContinuation, InventsNothingAndForgetsNothing) {
  std::size_t guesses = 0;
  for (int round = 0; round < 40; ++round) {
    std::mt19937 random(static_cast<std::mt19937::result_type>(round));
    const bool small = round % 2 == 0;
    KvCache cache = open(small ? 40 : 4000);
    std::vector<std::pair<std::string, Tokens>> all;
    for (int i = 0; i < 100; ++i) {
      Tokens tokens;
      const std::string salt = random() % 2 == 0 ? "one" : "two";
      if (!all.empty() && random() % 2 == 0) tokens = all[random() % all.size()].second;
      tokens.resize(random() % (tokens.size() + 1));
      for (std::size_t more = 1 + random() % 20; more > 0; --more) tokens.push_back(static_cast<TokenId>(random() % 3));
      tokens.resize(std::min<std::size_t>(tokens.size(), 60));
      const std::size_t known = 1 + random() % tokens.size(), next = random() % std::min<std::size_t>(known, 6);
      const Tokens begun(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(known - next));
      AdmitOptions options{.scope = {.salt = salt}};
      Lease lease = lease_of(cache, begun, options);
      const Tokens pending(tokens.begin() + static_cast<std::ptrdiff_t>(known - next),
                           tokens.begin() + static_cast<std::ptrdiff_t>(known));
      const Tokens guess = continuation(lease, pending, 1 + random() % 30);
      if (!guess.empty()) {
        ++guesses;
        const Tokens whole = begun + pending + guess;
        const bool seen = std::ranges::any_of(all, [&](const auto& earlier) {
          return earlier.first == salt && earlier.second.size() >= whole.size() &&
                 std::equal(whole.begin(), whole.end(), earlier.second.begin());
        });
        ASSERT_TRUE(seen) << "round " << round << ", sequence " << i;
      }
      compute(cache, lease, tokens, salt);
      lease = Lease();
      all.emplace_back(salt, tokens);
      if (small || tokens.size() < 4) continue;
      lease = lease_of(cache, Tokens(tokens.begin(), tokens.end() - 1), options);
      const Tokens rest = continuation(lease, {tokens.back()});
      const Lease again = lease_of(cache, Tokens(tokens.begin(), tokens.begin() + 4), options);
      Tokens heard(tokens.begin(), tokens.begin() + 4);
      heard = heard + continuation(again, Tokens(tokens.begin() + 4, tokens.end()));
      ASSERT_EQ(heard, Tokens(tokens.begin(), tokens.begin() + 4) + rest) << "committed or not makes no difference";
    }
    ASSERT_EQ(KvCacheState::of(cache).audit(), "");
  }
  EXPECT_GT(guesses, 300u);
}

}  // namespace
}  // namespace tiercel
