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

// Codes and scales of the leading tokens, and no byte else.
TEST(BlockArena, LeadingTokensAreCopiedWithTheirScales) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::Int8}) {
    const KvLayout layout{.layers = 3, .kv_heads = 2, .head_dim = 4, .block_tokens = 8, .dtype = dtype};
    const auto arena = BlockArena::reserve(2, layout.block_bytes());
    for (std::size_t tokens = 1; tokens <= 8; ++tokens) {
      std::memset(arena->block(0), 1, layout.block_bytes());
      std::memset(arena->block(1), 2, layout.block_bytes());
      ASSERT_TRUE(arena->copy_leading_tokens(layout, 0, 1, tokens).ok());
      const std::size_t row_bytes = layout.head_stride() * size_of(dtype), element_bytes = 4 * size_of(dtype);
      for (std::size_t i = 0; i < layout.block_bytes(); ++i) {
        const std::size_t in_row = i % row_bytes, codes = 8 * element_bytes;
        const std::size_t token = in_row < codes ? in_row / element_bytes : (in_row - codes) / 2;
        ASSERT_EQ(arena->block(1)[i], std::byte(token < tokens ? 1 : 2)) << to_string(dtype) << " byte " << i;
      }
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
