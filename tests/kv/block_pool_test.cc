#include "kv/block_pool.h"

#include <set>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(BlockPool, CountsFollowABlockThroughItsStates) {
  BlockPool pool(3);
  EXPECT_EQ(pool.free_blocks(), 3u);
  pool.promise(2);
  EXPECT_EQ(pool.claimable_blocks(), 1u);
  const BlockId block = pool.take_promised();
  EXPECT_FALSE(pool.is_free(block));
  EXPECT_EQ(pool.references(block), 1u);
  EXPECT_EQ(pool.promised_blocks(), 1u);
  EXPECT_EQ(pool.leased_blocks(), 1u);
  EXPECT_EQ(pool.free_blocks(), 2u);

  pool.add_reference(block);
  EXPECT_EQ(pool.leased_blocks(), 1u);
  EXPECT_FALSE(pool.drop_reference(block));
  EXPECT_TRUE(pool.drop_reference(block));
  EXPECT_EQ(pool.cached_blocks(), 1u);
  EXPECT_EQ(pool.leased_blocks(), 0u);

  pool.add_reference(block);  // cached, held again
  EXPECT_EQ(pool.cached_blocks(), 0u);
  EXPECT_TRUE(pool.drop_reference(block));
  pool.give_back(block);
  EXPECT_TRUE(pool.is_free(block));
  EXPECT_EQ(pool.free_blocks(), 3u);
  pool.return_promises(1);
  EXPECT_EQ(pool.claimable_blocks(), 3u);
}

TEST(BlockPool, GivesOutEveryBlockOnceFromTheFirstOn) {
  BlockPool pool(5);
  pool.promise(5);
  EXPECT_EQ(pool.claimable_blocks(), 0u);
  for (BlockId expected = 0; expected < 5; ++expected) EXPECT_EQ(pool.take_promised(), expected);
  EXPECT_EQ(pool.free_blocks(), 0u);
}

TEST(BlockPool, TheBlockFreedLastIsTakenFirst) {
  BlockPool pool(4);
  pool.promise(3);
  pool.take_promised();
  const BlockId warm = pool.take_promised();
  ASSERT_TRUE(pool.drop_reference(warm));
  pool.give_back(warm);
  EXPECT_EQ(pool.take_promised(), warm);
}

#ifndef NDEBUG
TEST(BlockPoolDeathTest, MisuseIsCaught) {
  BlockPool pool(2);
  pool.promise(1);
  EXPECT_DEATH(pool.promise(2), "claimable");
  EXPECT_DEATH(pool.return_promises(2), "promised");
  const BlockId block = pool.take_promised();
  EXPECT_DEATH(pool.take_promised(), "promised");
  EXPECT_DEATH(pool.give_back(block), "references");
  pool.drop_reference(block);
  EXPECT_DEATH(pool.drop_reference(block), "references");
  pool.give_back(block);
  EXPECT_DEATH(pool.give_back(block), "is_free");
  EXPECT_DEATH(pool.add_reference(block), "is_free");
}
#endif

}  // namespace
}  // namespace tiercel
