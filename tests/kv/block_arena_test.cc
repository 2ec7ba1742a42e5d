#include "kv/block_arena.h"

#include <cstdint>
#include <cstring>
#include <set>
#include <utility>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

std::uintptr_t address(const std::byte* bytes) { return reinterpret_cast<std::uintptr_t>(bytes); }

TEST(BlockArena, BlocksAreAlignedZeroedAndApart) {
  for (const std::size_t block_bytes :
       {std::size_t{1}, std::size_t{24}, std::size_t{64}, std::size_t{100}, std::size_t{4096}, std::size_t{12288}}) {
    const auto arena = BlockArena::reserve(7, block_bytes);
    ASSERT_TRUE(arena.ok());
    EXPECT_EQ(address(arena->block(0)) % 4096, 0u);
    EXPECT_EQ(arena->stride() % 64, 0u);
    EXPECT_GE(arena->stride(), block_bytes);
    EXPECT_LT(arena->stride(), block_bytes + 64);
    for (BlockId id = 0; id < 7; ++id) {
      std::byte* block = arena->block(id);
      EXPECT_EQ(address(block) % (block_bytes % 4096 == 0 ? 4096 : 64), 0u);
      for (std::size_t i = 0; i < block_bytes; ++i) ASSERT_EQ(block[i], std::byte{0});
      std::memset(block, static_cast<int>(id + 1), block_bytes);
    }
    for (BlockId id = 0; id < 7; ++id) {
      for (std::size_t i = 0; i < block_bytes; ++i) ASSERT_EQ(arena->block(id)[i], std::byte(id + 1));
    }
  }
}

TEST(BlockArena, ReservesFarMoreThanIsTouched) {
  const auto arena = BlockArena::reserve(std::size_t{1} << 20, std::size_t{1} << 20);  // a tebibyte
  if (!arena.ok()) {
    EXPECT_EQ(arena.status().code(), StatusCode::Unavailable);
    GTEST_SKIP() << "this system does not overcommit: " << arena.status().message();
  }
  arena->block((1u << 20) - 1)[0] = std::byte{1};
  EXPECT_EQ(arena->block((1u << 20) - 1)[0], std::byte{1});
}

TEST(BlockArena, WhatCannotBeReservedIsUnavailable) {
  EXPECT_EQ(BlockArena::reserve(std::size_t{1} << 40, std::size_t{1} << 30).status().code(), StatusCode::Unavailable);
  EXPECT_EQ(BlockArena::reserve(1, SIZE_MAX).status().code(), StatusCode::Unavailable);
  EXPECT_EQ(BlockArena::reserve(1, std::size_t{1} << 60).status().code(), StatusCode::Unavailable);
}

TEST(BlockArena, MovingTakesTheMemoryAlong) {
  auto first = BlockArena::reserve(2, 64);
  first->block(1)[0] = std::byte{42};
  BlockArena second = *std::move(first);
  EXPECT_EQ(second.block(1)[0], std::byte{42});
  auto third = BlockArena::reserve(3, 128);
  second = *std::move(third);
  EXPECT_EQ(second.stride(), 128u);
  EXPECT_EQ(second.block(2)[0], std::byte{0});
}

}  // namespace
}  // namespace tiercel
