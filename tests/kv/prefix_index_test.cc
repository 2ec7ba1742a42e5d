#include "kv/prefix_index.h"

#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;
constexpr std::uint32_t kBlockTokens = 3;

constexpr auto any_block = [](BlockId) { return true; };
ContentKey same_key(const ContentKey&, std::span<const std::byte>) { return {.low = 5, .high = 5}; }

// Every case runs with the real hash and with one that always collides: answers must not differ.
class PrefixIndexTest : public testing::TestWithParam<KeyFunction> {
 protected:
  PrefixIndex index{10, kBlockTokens, {}, GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Keys, PrefixIndexTest, testing::Values(&xxh3_key, &same_key),
                         [](const auto& key) { return key.index == 0 ? "Xxh3" : "Colliding"; });

TEST_P(PrefixIndexTest, FindsExactlyWhatWasInserted) {
  const NodeId root = index.hold_root("", 0);
  index.insert(root, Tokens{1, 2, 3}, 4);
  index.insert(4, Tokens{1, 2, 3}, 7);  // the same tokens, one block deeper
  index.insert(root, Tokens{1, 2, 4}, 2);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 3}), 4u);
  EXPECT_EQ(index.find_child(4, Tokens{1, 2, 3}), 7u);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 4}), 2u);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 5}), kNoBlock);
  EXPECT_EQ(index.find_child(7, Tokens{1, 2, 3}), kNoBlock);
  EXPECT_EQ(index.find_child(2, Tokens{1, 2, 3}), kNoBlock);
  EXPECT_EQ(index.size(), 3u);
  EXPECT_EQ(index.parent(7), 4u);
  EXPECT_EQ(index.parent(4), root);
  EXPECT_TRUE(PrefixIndex::is_root(index.parent(2)));
  EXPECT_EQ(Tokens(index.tokens(2).begin(), index.tokens(2).end()), (Tokens{1, 2, 4}));
}

TEST_P(PrefixIndexTest, ScopesAreSeparate) {
  const NodeId plain = index.hold_root("", 0);
  const NodeId salted = index.hold_root("tenant", 0);
  const NodeId adapted = index.hold_root("", 1);
  index.insert(plain, Tokens{1, 2, 3}, 0);
  EXPECT_EQ(index.find_child(salted, Tokens{1, 2, 3}), kNoBlock);
  EXPECT_EQ(index.find_child(adapted, Tokens{1, 2, 3}), kNoBlock);
  EXPECT_EQ(index.closest_child(salted, Tokens{1, 2}, any_block).block, kNoBlock);
  index.insert(salted, Tokens{1, 2, 3}, 1);
  EXPECT_EQ(index.find_child(plain, Tokens{1, 2, 3}), 0u);
  EXPECT_EQ(index.find_child(salted, Tokens{1, 2, 3}), 1u);
}

TEST_P(PrefixIndexTest, ClosestChildHasTheLongestCommonPrefix) {
  const NodeId root = index.hold_root("", 0);
  index.insert(root, Tokens{1, 9, 9}, 0);
  index.insert(root, Tokens{1, 2, 9}, 1);
  index.insert(root, Tokens{8, 2, 3}, 2);
  index.insert(1, Tokens{1, 2, 3}, 3);
  const auto closest = [&](const Tokens& tokens) { return index.closest_child(root, tokens, any_block); };
  EXPECT_EQ(closest({1, 2, 3, 4}).block, 1u);
  EXPECT_EQ(closest({1, 2, 3, 4}).tokens, 2u);
  EXPECT_EQ(closest({1, 9}).block, 0u);
  EXPECT_EQ(closest({1, 9}).tokens, 2u);
  EXPECT_EQ(closest({8}).block, 2u);
  EXPECT_EQ(closest({8}).tokens, 1u);
  EXPECT_EQ(closest({7, 2, 3}).block, kNoBlock);
  EXPECT_EQ(closest({7, 2, 3}).tokens, 0u);
  EXPECT_EQ(closest({}).block, kNoBlock);
  const auto but_1 = index.closest_child(root, Tokens{1, 2, 3}, [](BlockId block) { return block != 1; });
  EXPECT_EQ(but_1.block, 0u);
  EXPECT_EQ(but_1.tokens, 1u);
}

TEST_P(PrefixIndexTest, RemovingLeavesKeepsTheRestFindable) {
  // Siblings are removed first, last and from the middle.
  for (const std::vector<BlockId>& order : {std::vector<BlockId>{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}}) {
    PrefixIndex fresh(10, kBlockTokens, {}, GetParam());
    const NodeId root = fresh.hold_root("", 0);
    fresh.insert(root, Tokens{0, 0, 0}, 9);
    for (BlockId block = 0; block < 3; ++block) fresh.insert(9, Tokens{7, 7, static_cast<TokenId>(block)}, block);
    EXPECT_FALSE(fresh.is_leaf(9));
    std::vector<bool> present(3, true);
    for (const BlockId gone : order) {
      EXPECT_EQ(fresh.remove_leaf(gone), 9u);
      present[gone] = false;
      for (BlockId block = 0; block < 3; ++block) {
        const Tokens tokens{7, 7, static_cast<TokenId>(block)};
        EXPECT_EQ(fresh.find_child(9, tokens), present[block] ? block : kNoBlock);
        EXPECT_EQ(fresh.closest_child(9, tokens, any_block).tokens == 3, present[block]);
      }
    }
    EXPECT_TRUE(fresh.is_leaf(9));
    EXPECT_EQ(fresh.remove_leaf(9), root);
    EXPECT_EQ(fresh.size(), 0u);
  }
}

TEST_P(PrefixIndexTest, AnIdCanComeBackWithOtherContent) {
  const NodeId root = index.hold_root("", 0);
  index.insert(root, Tokens{1, 2, 3}, 0);
  index.remove_leaf(0);
  index.insert(root, Tokens{4, 5, 6}, 0);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 3}), kNoBlock);
  EXPECT_EQ(index.find_child(root, Tokens{4, 5, 6}), 0u);
}

TEST_P(PrefixIndexTest, RootsLiveAsLongAsTheyAreHeldOrHaveBlocks) {
  EXPECT_EQ(index.find_root("a", 0), kNoNode);
  const NodeId root = index.hold_root("a", 0);
  EXPECT_EQ(index.hold_root("a", 0), root);
  index.insert(root, Tokens{1, 2, 3}, 0);
  index.drop_root(root);
  index.drop_root(root);
  EXPECT_EQ(index.find_root("a", 0), root) << "has a block";
  index.remove_leaf(0);
  EXPECT_EQ(index.find_root("a", 0), kNoNode);
  EXPECT_EQ(index.roots(), 0u);
  for (int i = 0; i < 100; ++i) index.drop_root(index.hold_root(std::to_string(i), 0));
  EXPECT_EQ(index.roots(), 0u);
}

TEST_P(PrefixIndexTest, RootsOfOneSaltAreVisitedAndMayBeDroppedMeanwhile) {
  const NodeId a0 = index.hold_root("a", 0), a7 = index.hold_root("a", 7), b = index.hold_root("b", 0);
  std::vector<NodeId> visited;
  index.for_each_root("a", [&](NodeId root) {
    visited.push_back(root);
    index.drop_root(root);
  });
  EXPECT_EQ(visited, (std::vector<NodeId>{a0, a7}));
  EXPECT_EQ(index.roots(), 1u);
  index.for_each_root([&](NodeId root) { EXPECT_EQ(root, b); });
  index.begin_epoch(b);
  EXPECT_EQ(index.epoch(b), 1u);
  index.drop_root(b);
  EXPECT_EQ(index.epoch(index.hold_root("c", 0)), 0u) << "a root made anew has no past";
}

TEST(PrefixIndex, CompanionsComeAndGoByThemselves) {
  PrefixIndex index(6, kBlockTokens, {}, &xxh3_key, 3);
  const NodeId root = index.hold_root("", 0);
  index.insert(root, Tokens{1, 2, 3}, 0);
  EXPECT_EQ(index.companion(0, 1), kNoBlock);
  index.attach(0, 1, 4);
  index.attach(0, 2, 5);
  EXPECT_EQ(index.companion(0, 1), 4u);
  EXPECT_EQ(index.companion(0, 2), 5u);
  EXPECT_TRUE(index.is_companion(5) && index.contains(5) && !index.is_companion(0));
  EXPECT_EQ(index.parent(5), 0u);
  EXPECT_TRUE(index.is_leaf(0));
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 3}), 0u) << "a companion is found through its owner only";
  EXPECT_EQ(index.size(), 1u);
  index.detach(4);
  EXPECT_FALSE(index.contains(4));
  EXPECT_EQ(index.companion(0, 1), kNoBlock);
  EXPECT_EQ(index.companion(0, 2), 5u);
}

TEST(PrefixIndex, CollisionsAreCounted) {
  PrefixIndex index(4, kBlockTokens, {}, &same_key);
  const NodeId root = index.hold_root("", 0);
  index.insert(root, Tokens{1, 2, 3}, 0);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 3}), 0u);
  EXPECT_EQ(index.compare_mismatches(), 0u);
  EXPECT_EQ(index.find_child(root, Tokens{1, 2, 4}), kNoBlock);
  EXPECT_EQ(index.compare_mismatches(), 1u);
}

TEST(PrefixIndex, MetadataPerBlockIsSmall) {
  const PrefixIndex index(4096, 32, {}, &xxh3_key);
  EXPECT_LE(index.metadata_bytes(), 4096u * 192u);
  EXPECT_GE(index.metadata_bytes(), 4096u * 32u * sizeof(TokenId));
}

}  // namespace
}  // namespace tiercel
