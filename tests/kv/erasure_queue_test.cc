#include "kv/erasure_queue.h"

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TierErasure of_tenant(std::uint64_t tenant) { return {.kind = TierErasure::Kind::Tenant, .tenant = tenant}; }

TEST(ErasureQueue, IsPendingUntilEachWasTriedToItsEnd) {
  ErasureQueue queue;
  EXPECT_FALSE(queue.is_pending());
  queue.add(of_tenant(1));
  EXPECT_TRUE(queue.is_pending());
  TierErasure first = queue.begin();
  EXPECT_TRUE(queue.is_empty());
  EXPECT_TRUE(queue.is_pending()) << "under way";
  queue.end(std::move(first), true);
  EXPECT_FALSE(queue.is_pending());
}

TEST(ErasureQueue, WhatFailedWaitsBehindWhatWasNeverTried) {
  ErasureQueue queue;
  queue.add(of_tenant(1));
  queue.end(queue.begin(), false);
  EXPECT_FALSE(queue.is_pending()) << "it is not found any more";
  EXPECT_FALSE(queue.is_empty());
  EXPECT_FALSE(queue.has_next(/*retry=*/false));
  EXPECT_TRUE(queue.has_next(/*retry=*/true));
  queue.add(of_tenant(2));
  queue.add(of_tenant(3));
  EXPECT_TRUE(queue.is_pending());
  for (const std::uint64_t tenant : {2u, 3u, 1u}) {
    TierErasure next = queue.begin();
    EXPECT_EQ(next.tenant, tenant);
    EXPECT_EQ(next.failed, tenant == 1);
    queue.end(std::move(next), true);
  }
  EXPECT_TRUE(queue.is_empty());
}

TEST(ErasureQueue, TooManyAreOneOfAll) {
  ErasureQueue queue;
  for (std::size_t i = 0; i <= ErasureQueue::kMostErasures; ++i) queue.add(of_tenant(i));
  TierErasure all = queue.begin();
  EXPECT_EQ(all.kind, TierErasure::Kind::All);
  EXPECT_TRUE(queue.is_empty());
  queue.end(std::move(all), true);
}

}  // namespace
}  // namespace tiercel
