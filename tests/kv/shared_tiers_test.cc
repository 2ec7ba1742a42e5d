// One store below several caches. The background's work is turned by hand, so that the caches' workers come in the
// order that the test says.
#include "kv/shared_tiers.h"

#include <memory>
#include <utility>
#include <vector>

#include "tests/kv/tier_fixture.h"

namespace tiercel {
namespace {

// Counts how often it is opened.
class OpenedStore final : public ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  Status open(const KvLayout& layout, const Fingerprint& fingerprint) override {
    ++opened;
    return answer.ok() ? ForwardingStore::open(layout, fingerprint) : answer;
  }
  int opened = 0;
  Status answer;
};

class SharedTiersTest : public TierFixture {
 protected:
  SharedTiersTest() {
    for (int i = 0; i < 2; ++i) caches.push_back(open_tiered(64, {.tiers = shared.handles()}));
  }
  // Tokens that a prompt finds in the tier, once loaded.
  static std::size_t load(KvCache& cache, const Tokens& tokens) {
    const ExpectedPrompt expected = cache.expect(tokens, {});
    finish(cache);
    return expected.cached_tokens();
  }
  std::size_t invalidate_in_all(const Tokens& prefix) {
    const SharedTiers::Hold hold(shared);
    std::size_t forgotten = 0;
    for (KvCache& cache : caches) forgotten += cache.invalidate(prefix);
    return forgotten;
  }

  SharedTiers shared{{store}};
  std::vector<KvCache> caches;
  const Tokens tokens = numbers(1, 32);  // eight blocks
  const Tokens first_block = numbers(1, 4);
  const Tokens other = numbers(1000, 32);
};

TEST_F(SharedTiersTest, WhatOneComputesAnotherFinds) {
  run_and_store(caches[0], tokens);
  EXPECT_EQ(found(caches[1], tokens), 0u);
  EXPECT_EQ(load(caches[1], tokens), 32u);
  const Lease lease = admit(caches[1], tokens);
  EXPECT_EQ(lease.matched_tokens(), 32u);
  EXPECT_EQ(lease.matched_tokens_from(0), 32u);
  expect_bytes(caches[1], lease, tokens);
}

TEST_F(SharedTiersTest, WhatBothComputeIsThereOnce) {
  for (KvCache& cache : caches) run_and_store(cache, tokens);
  EXPECT_EQ(store->stats().stored_blocks, 8u);
  EXPECT_EQ(store->stats().written_blocks, 8u);
}

TEST_F(SharedTiersTest, NothingComesBackFromACacheThatForgetsLater) {
  run_and_store(caches[0], tokens);
  run(caches[1], tokens);  // its write waits
  {
    const SharedTiers::Hold hold(shared);
    caches[0].invalidate(first_block);
    finish(caches[0]);  // has left the tier
    EXPECT_EQ(store->stats().stored_blocks, 0u);
    finish(caches[1]);  // written by the other, which has not been asked yet
    EXPECT_EQ(store->stats().stored_blocks, 8u);
    EXPECT_FALSE(caches[0].expect(tokens, {}).in_flight()) << "it was forgotten, and is not waited for";
    EXPECT_EQ(load(caches[0], tokens), 0u);
    caches[1].invalidate(first_block);
    EXPECT_EQ(load(caches[0], tokens), 0u);
  }
  EXPECT_EQ(load(caches[0], tokens), 0u) << "it is still in the tier, to be erased by the other";
  EXPECT_EQ(store->stats().stored_blocks, 8u);
  finish(caches[1]);
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  for (KvCache& cache : caches) EXPECT_EQ(load(cache, tokens), 0u);
  // The tier serves as before.
  run_and_store(caches[0], other);
  EXPECT_EQ(load(caches[1], other), 32u);
}

TEST_F(SharedTiersTest, ALoadThatBeganEarlierFindsNothing) {
  run_and_store(caches[0], tokens);
  push_out(caches[0]);
  const ExpectedPrompt expected = caches[0].expect(tokens, {});
  EXPECT_TRUE(expected.in_flight());
  caches[1].invalidate(first_block);  // it has not been carried out, nor has the first been asked
  finish(caches[0]);
  EXPECT_EQ(expected.cached_tokens(), 0u);
}

TEST_F(SharedTiersTest, EveryKindOfForgettingHoldsTheOthersBack) {
  for (const bool all : {false, true}) {
    run_and_store(caches[0], tokens);
    run_and_store(caches[0], other);
    if (all) {
      caches[1].invalidate_all();
    } else {
      caches[1].invalidate_tenant("");
    }
    EXPECT_EQ(load(caches[1], tokens), 0u);
    push_out(caches[0]);
    EXPECT_EQ(load(caches[0], tokens), 0u) << "the other has erased nothing yet, or all";
    finish(caches[1]);
    EXPECT_EQ(store->stats().stored_blocks, 0u);
    caches[0].invalidate_all();
    finish(caches[0]);
  }
}

TEST_F(SharedTiersTest, AnErasureThatFailsHoldsNobodyBackForLong) {
  run_and_store(caches[0], other);
  store->fail_erase_one_in = 1;
  EXPECT_EQ(invalidate_in_all(first_block), 0u);
  push_out(caches[0]);
  EXPECT_EQ(load(caches[0], other), 0u);
  for (KvCache& cache : caches) finish(cache);  // tried
  store->fail_erase_one_in = 0;
  EXPECT_EQ(load(caches[0], other), 32u);
}

TEST_F(SharedTiersTest, ACacheThatEndsHoldsNobodyBack) {
  run_and_store(caches[0], tokens);
  push_out(caches[0]);
  caches[1].invalidate(other);
  EXPECT_EQ(load(caches[0], tokens), 0u);
  caches.pop_back();
  EXPECT_EQ(load(caches[0], tokens), 32u);
}

TEST_F(SharedTiersTest, AStoreIsOpenedOnce) {
  const auto counted = std::make_shared<OpenedStore>(store);
  const SharedTiers tiers({counted});
  const KvCache first = open_tiered(8, {.tiers = tiers.handles()}), second = open_tiered(8, {.tiers = tiers.handles()});
  EXPECT_EQ(counted->opened, 1);
  const auto refusing = std::make_shared<OpenedStore>(store);
  refusing->answer = Status::rejected("in use", 0);
  const SharedTiers refused({refusing});
  refused.open(kLayout, {});
  for (int i = 0; i < 2; ++i) {
    KvCacheOptions options{.capacity_bytes = bytes(8), .tiers = refused.handles()};
    EXPECT_EQ(KvCache::open(options, kLayout, {}).status().code(), StatusCode::Rejected);
  }
  EXPECT_EQ(refusing->opened, 1);
}

TEST_F(SharedTiersTest, HandlesSayWhatTheStoreIs) {
  const auto handle = shared.handles().front();
  EXPECT_EQ(handle->name(), "faulty");
  EXPECT_FALSE(handle->is_durable());
  store->durable = true;
  EXPECT_TRUE(handle->is_durable());
  EXPECT_EQ(handle->medium(), TierMedium::Disk);
}

}  // namespace
}  // namespace tiercel
