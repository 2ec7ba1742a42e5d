#include "kv/successor_table.h"

#include <gtest/gtest.h>

namespace tiercel {
namespace {

Document document(std::uint64_t number, std::size_t tokens = 8) {
  return {.key = {number, number}, .salt = {}, .tokens = std::vector<TokenId>(tokens, static_cast<TokenId>(number))};
}
// The number of what will likely follow, 0 for nothing.
std::uint64_t next(SuccessorTable& table, std::uint64_t number, std::uint64_t tenant = 1) {
  const Document* found = table.observe(tenant, document(number));
  return found == nullptr ? 0 : found->key.low;
}

TEST(SuccessorTable, LearnsWhatFollows) {
  SuccessorTable table;
  EXPECT_EQ(next(table, 1), 0u);
  EXPECT_EQ(next(table, 2), 0u);
  EXPECT_EQ(next(table, 1), 0u) << "once is no habit";
  EXPECT_EQ(next(table, 2), 0u);
  EXPECT_EQ(next(table, 1), 2u);
  EXPECT_EQ(table.observe(1, document(1).key)->tokens, document(2).tokens);
}

TEST(SuccessorTable, SaysNothingWhereNothingIsLikely) {
  SuccessorTable table;
  for (int round = 0; round < 5; ++round) {
    for (std::uint64_t other = 2; other < 5; ++other) {
      next(table, 1);
      next(table, other);
    }
  }
  EXPECT_EQ(next(table, 1), 0u) << "each followed a third of the time";
}

TEST(SuccessorTable, TenantsDoNotMix) {
  SuccessorTable table;
  for (int round = 0; round < 5; ++round) {
    next(table, 1, 1);
    next(table, 2, 2);
  }
  EXPECT_EQ(next(table, 1, 1), 0u);
  EXPECT_EQ(next(table, 2, 2), 0u);
}

TEST(SuccessorTable, ChangesWithHabits) {
  SuccessorTable table;
  for (int round = 0; round < 3; ++round) next(table, 1), next(table, 2);
  EXPECT_EQ(next(table, 1), 2u);
  for (int round = 0; round < 10; ++round) next(table, 3), next(table, 1);
  EXPECT_EQ(next(table, 1), 3u);
}

TEST(SuccessorTable, StaysSmall) {
  SuccessorTable table;
  for (std::uint64_t i = 1; i < 5000; ++i) next(table, i, i);
  EXPECT_TRUE(table.knows({4999, 4999}));
  EXPECT_FALSE(table.knows({1, 1}));
  EXPECT_EQ(table.observe(1, document(9999, SuccessorTable::kMostDocumentTokens + 1)), nullptr);
  EXPECT_FALSE(table.knows({9999, 9999}));
}

}  // namespace
}  // namespace tiercel
