#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

struct Shape {
  DType dtype;
  std::size_t head_dim, kv_heads, group, block_tokens, length;
};
const Shape kShapes[] = {
    {DType::F32, 64, 3, 3, 32, 300}, {DType::F16, 64, 3, 3, 32, 75},     {DType::BF16, 64, 1, 4, 32, 64},
    {DType::F16, 128, 2, 1, 8, 261}, {DType::BF16, 80, 1, 8, 16, 140},   {DType::F32, 96, 2, 2, 128, 150},
    {DType::F16, 16, 1, 1, 64, 1},   {DType::F16, 256, 1, 2, 32, 40},    {DType::Int8, 64, 3, 3, 32, 300},
    {DType::Int8, 80, 1, 5, 8, 141}, {DType::Int8, 128, 2, 1, 128, 150}, {DType::Int8, 16, 1, 2, 16, 1},
};

TEST(PagedAttention, AgreesWithADoubleReference) {
  for (const Shape& s : kShapes) {
    for_every_target([&] {
      AttentionCase c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 5);
      for (const AttentionStyle style : {AttentionStyle::Decode, AttentionStyle::Prefill}) {
        const auto out = c.run(0, s.length, style);
        for (std::size_t position = 0; position < s.length; ++position) {
          for (std::size_t head = 0; head < s.kv_heads * s.group; ++head) {
            const auto expected = c.reference(position, head);
            for (std::size_t i = 0; i < s.head_dim; ++i) {
              ASSERT_NEAR(out[position * c.q_stride + head * s.head_dim + i], expected[i], 2e-5)
                  << "head_dim " << s.head_dim << " position " << position << " head " << head << " element " << i;
            }
          }
          for (std::size_t i = s.kv_heads * s.group * s.head_dim; i < c.q_stride; ++i)
            ASSERT_EQ(out[position * c.q_stride + i], 77.0f);
        }
      }
    });
  }
}

TEST(PagedAttention, AQueryHasTheSameBitsHoweverTheCallIsCut) {
  for (const Shape& s : kShapes) {
    for_every_target([&] {
      AttentionCase c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 6);
      for (const AttentionStyle style : {AttentionStyle::Decode, AttentionStyle::Prefill}) {
        const auto whole = c.run(0, s.length, style);
        for (std::size_t first = 0; first < s.length;) {
          const std::size_t tokens = std::min<std::size_t>(1 + c.random() % 9, s.length - first);
          const auto part = c.run(first, tokens, style);
          ASSERT_EQ(
              std::memcmp(&whole[first * c.q_stride], &part[first * c.q_stride], tokens * c.q_stride * sizeof(float)),
              0)
              << "queries " << first << " to " << first + tokens;
          first += tokens;
        }
      }
    });
  }
}

const Shape kRoundedShapes[] = {
    {DType::BF16, 64, 3, 3, 32, 300},  {DType::BF16, 64, 1, 1, 8, 21},    {DType::BF16, 128, 2, 1, 8, 261},
    {DType::BF16, 80, 1, 8, 16, 140},  {DType::BF16, 96, 2, 2, 128, 150}, {DType::BF16, 16, 1, 5, 64, 1},
    {DType::BF16, 256, 1, 2, 32, 40},  {DType::BF16, 112, 1, 7, 32, 129}, {DType::Int8, 64, 3, 3, 32, 300},
    {DType::Int8, 64, 1, 1, 8, 21},    {DType::Int8, 128, 2, 1, 8, 261},  {DType::Int8, 80, 1, 8, 16, 140},
    {DType::Int8, 96, 2, 2, 128, 150}, {DType::Int8, 16, 1, 5, 64, 1},    {DType::Int8, 112, 1, 7, 32, 129}};

// The mean deviation from the reference, of values around 1, is within `mean`; and queries computed in calls of a few
// have the same bits as in one call of all.
void expect_rounding(const AttentionKernel& kernel, AttentionStyle style, AttentionStyle cut_style, double mean) {
  for (const Shape& s : kRoundedShapes) {
    AttentionCase c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 5);
    const auto out = c.run(0, s.length, style, kernel);
    double squares = 0;
    std::size_t elements = 0;
    for (std::size_t position = 0; position < s.length; ++position) {
      for (std::size_t head = 0; head < s.kv_heads * s.group; ++head) {
        const auto expected = c.reference(position, head);
        for (std::size_t i = 0; i < s.head_dim; ++i, ++elements) {
          const double off = out[position * c.q_stride + head * s.head_dim + i] - expected[i];
          ASSERT_LT(std::abs(off), 15 * mean)
              << "head_dim " << s.head_dim << " position " << position << " element " << i;
          squares += off * off;
        }
      }
      for (std::size_t i = s.kv_heads * s.group * s.head_dim; i < c.q_stride; ++i)
        ASSERT_EQ(out[position * c.q_stride + i], 77.0f);
    }
    EXPECT_LT(std::sqrt(squares / static_cast<double>(elements)), mean) << "head_dim " << s.head_dim;
    for (std::size_t first = 0; first < s.length;) {
      const std::size_t tokens = std::min<std::size_t>(1 + c.random() % 9, s.length - first);
      const auto part = c.run(first, tokens, cut_style, kernel);
      ASSERT_EQ(std::memcmp(&out[first * c.q_stride], &part[first * c.q_stride], tokens * c.q_stride * sizeof(float)),
                0)
          << "queries " << first << " to " << first + tokens;
      first += tokens;
    }
  }
}

TEST(Bf16Attention, AgreesWithADoubleReferenceAndKeepsBitsHoweverTheCallIsCut) {
  if (!kernels::has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  expect_rounding(kernels::kBf16Attention, AttentionStyle::Prefill, AttentionStyle::Decode, 2e-3);
  expect_rounding(kernels::kWidenedAttention, AttentionStyle::Prefill, AttentionStyle::Decode, 1e-4);
}

TEST(Int8ProductsAttention, AgreesWithADoubleReferenceAndKeepsBitsHoweverTheCallIsCut) {
  if (!kernels::has_int8_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  expect_rounding(kernels::kInt8Attention, AttentionStyle::Prefill, AttentionStyle::Prefill, 7e-3);
  expect_rounding(kernels::kInt8Attention, AttentionStyle::Decode, AttentionStyle::Decode, 2e-3);
}

TEST(Int16ProductsAttention, AgreesWithADoubleReferenceAndKeepsBitsHoweverTheCallIsCut) {
  if (!kernels::has_int16_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  expect_rounding(kernels::kInt16Attention, AttentionStyle::Prefill, AttentionStyle::Prefill, 5e-4);
  expect_rounding(kernels::kInt16Attention, AttentionStyle::Decode, AttentionStyle::Decode, 2e-3);
}

// A context of several sections: right, and the same bits whether one call computes it, or one for each section, for
// queries that see all sections and for those that see only the first.
void expect_sections_merge(const Shape& s, const AttentionKernel& kernel, double tolerance) {
  AttentionCase c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 9);
  const std::size_t section = kernel.section_tokens(c.layout);
  ASSERT_GT(s.length, 2 * section);
  ASSERT_EQ(section % s.block_tokens, 0u);
  for (const AttentionStyle style : {AttentionStyle::Decode, AttentionStyle::Prefill}) {
    for (const auto& [first, tokens] : {std::pair<std::size_t, std::size_t>{s.length - 1, 1},
                                        {section - 3, 7},
                                        {2 * section - 1, 1},
                                        {2 * section, 2},
                                        {s.length - 40, 40}}) {
      const auto whole = c.run(first, tokens, style, kernel);
      for (const std::size_t position : {first, first + tokens - 1}) {
        const auto expected = c.reference(position, 0);
        for (std::size_t i = 0; i < s.head_dim; ++i) {
          ASSERT_NEAR(whole[position * c.q_stride + i], expected[i], tolerance) << "position " << position;
        }
      }
      ASSERT_EQ(c.run(first, tokens, style, kernel, true), whole) << "queries from " << first;
      for (std::size_t i = 0; i < tokens; ++i) {
        const auto alone = c.run(first + i, 1, style, kernel, i % 2 == 0);
        const std::size_t at = (first + i) * c.q_stride;
        ASSERT_EQ(std::memcmp(&alone[at], &whole[at], c.q_stride * sizeof(float)), 0) << "query " << first + i;
      }
    }
  }
}

TEST(PagedAttention, SectionsOfAContextMergeToTheSameBits) {
  for_every_target([] {
    expect_sections_merge({DType::F32, 64, 2, 3, 32, 1100}, kernels::kAttention, 2e-5);
    expect_sections_merge({DType::F16, 48, 1, 2, 24, 1300}, kernels::kAttention, 2e-5);
    expect_sections_merge({DType::Int8, 64, 1, 3, 32, 1100}, kernels::kAttention, 1e-4);
  });
}

TEST(Bf16Attention, SectionsOfAContextMergeToTheSameBits) {
  if (!kernels::has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  for (const AttentionKernel* kernel : {&kernels::kBf16Attention, &kernels::kWidenedAttention}) {
    expect_sections_merge({DType::BF16, 64, 2, 3, 32, 1100}, *kernel, 0.01);
    expect_sections_merge({DType::BF16, 80, 1, 1, 8, 1200}, *kernel, 0.01);
    expect_sections_merge({DType::Int8, 64, 2, 3, 32, 1100}, *kernel, 0.02);
    expect_sections_merge({DType::Int8, 80, 1, 1, 8, 1200}, *kernel, 0.02);
  }
}

// Many small weights behind a large one are no less together than they are, nor is a weight whose value is zero.
void expect_small_weights(const AttentionKernel& kernel, double tolerance) {
  for (const bool zeros : {false, true}) {
    AttentionCase c(DType::BF16, 64, 1, 1, 32, 900, 3);
    std::ranges::fill(c.q, 1.0f);
    // A thousand times the weight of another: more than 8 bits tell apart.
    c.set(0, std::log(1000.0f) / (64 * c.scale()), -1);
    for (std::size_t t = 1; t < c.length; ++t) c.set(t, 0, zeros && t % 2 == 0 ? 0.0f : 1.0f);
    const auto out = c.run(880, 20, AttentionStyle::Prefill, kernel);
    for (std::size_t position = 880; position < 900; ++position) {
      const auto expected = c.reference(position, 0);
      for (std::size_t i = 0; i < 64; ++i) ASSERT_NEAR(out[position * c.q_stride + i], expected[i], tolerance);
    }
  }
}

TEST(Int8ProductsAttention, SmallWeightsKeepTheirPart) {
  if (!kernels::has_int8_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  // The weights of the large one's own span are lost.
  expect_small_weights(kernels::kInt8Attention, 128.0 / 1900);
}

TEST(Int16ProductsAttention, SmallWeightsKeepTheirPart) {
  if (!kernels::has_int16_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  // Those have few bits: 4.1 of 4095 becomes 4.
  expect_small_weights(kernels::kInt16Attention, 0.125 * 128 / 1900);
}

// The largest codes of keys, queries, weights and values everywhere: sums of 32 bits hold them.
TEST(Int16ProductsAttention, SumsDoNotOverflow) {
  if (!kernels::has_int16_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  for (const std::size_t head_dim : {16, 32, 64, 96, 128, 192, 256}) {
    AttentionCase c(DType::BF16, head_dim, 1, 2, 32, 300, 4);
    for (const float sign : {1.0f, -1.0f}) {
      std::ranges::fill(c.q, sign * 0.5f);
      for (std::size_t t = 0; t < c.length; ++t) c.set(t, 1, 1);
      const auto out = c.run(280, 20, AttentionStyle::Prefill, kernels::kInt16Attention);
      for (std::size_t i = 0; i < head_dim; ++i) ASSERT_NEAR(out[280 * c.q_stride + i], 1, 1e-3) << head_dim;
      // One key of the other sign, beside which small weights of its span are rounded as above.
      c.set(7, -1, -1);
      const auto other = c.run(280, 20, AttentionStyle::Prefill, kernels::kInt16Attention);
      const auto expected = c.reference(280, 0);
      for (std::size_t i = 0; i < head_dim; ++i)
        ASSERT_NEAR(other[280 * c.q_stride + i], expected[i], 0.125 * 128 / 300);
    }
  }
}

TEST(Int8ProductsAttention, SectionsOfAContextMergeToTheSameBits) {
  if (!kernels::has_int8_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  expect_sections_merge({DType::BF16, 64, 2, 3, 32, 1100}, kernels::kInt8Attention, 0.02);
  expect_sections_merge({DType::BF16, 80, 1, 1, 8, 1200}, kernels::kInt8Attention, 0.02);
  expect_sections_merge({DType::Int8, 64, 2, 3, 32, 1100}, kernels::kInt8Attention, 0.02);
}

TEST(Int16ProductsAttention, SectionsOfAContextMergeToTheSameBits) {
  if (!kernels::has_int16_attention()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  expect_sections_merge({DType::BF16, 64, 2, 3, 32, 1100}, kernels::kInt16Attention, 0.01);
  expect_sections_merge({DType::BF16, 80, 1, 1, 8, 1200}, kernels::kInt16Attention, 0.01);
  expect_sections_merge({DType::Int8, 64, 2, 3, 32, 1100}, kernels::kInt16Attention, 0.02);
}

TEST(PagedAttention, LargeScoresDoNotOverflow) {
  for_every_target([] {
    AttentionCase c(DType::F32, 64, 1, 1, 32, 50, 7);
    for (float& value : c.q) value *= 1000;
    for (const AttentionStyle style : {AttentionStyle::Decode, AttentionStyle::Prefill}) {
      const auto out = c.run(0, 50, style);
      for (std::size_t position = 0; position < 50; ++position) {
        const auto expected = c.reference(position, 0);
        for (std::size_t i = 0; i < 64; ++i) ASSERT_NEAR(out[position * c.q_stride + i], expected[i], 5e-3);
      }
    }
  });
}

// Whatever the shape, and whichever kernel.
TEST(Int8Attention, AgreesWithADoubleReferenceForRandomShapes) {
  std::mt19937 random(21);
  for (int round = 0; round < 40; ++round) {
    const std::size_t head_dim = 16 * (1 + random() % 16), kv_heads = 1 + random() % 3, group = 1 + random() % 9;
    const std::size_t block_tokens = std::size_t{8} << random() % 5, length = 1 + random() % 400;
    AttentionCase c(DType::Int8, head_dim, kv_heads, group, block_tokens, length, static_cast<unsigned>(random()));
    const std::size_t first = random() % length, tokens = std::min<std::size_t>(1 + random() % 12, length - first);
    const auto check = [&](const AttentionKernel& kernel, AttentionStyle style, double tolerance) {
      const auto out = c.run(first, tokens, style, kernel, random() % 2 == 0);
      double squares = 0, all = 1e-9;
      for (std::size_t position = first; position < first + tokens; ++position) {
        for (std::size_t head = 0; head < kv_heads * group; ++head) {
          const auto expected = c.reference(position, head);
          for (std::size_t i = 0; i < head_dim; ++i) {
            const double off = out[position * c.q_stride + head * head_dim + i] - expected[i];
            squares += off * off;
            all += expected[i] * expected[i];
          }
        }
      }
      ASSERT_LT(std::sqrt(squares / all), tolerance)
          << "head_dim " << head_dim << ", " << kv_heads << " heads of " << group << ", blocks of " << block_tokens
          << ", queries " << first << " to " << first + tokens;
    };
    for_every_target([&] {
      check(kernels::kAttention, AttentionStyle::Decode, 2e-5);
      check(kernels::kAttention, AttentionStyle::Prefill, 2e-5);
    });
    if (kernels::has_bf16_products()) {
      check(kernels::kBf16Attention, AttentionStyle::Decode, 0.03);
      check(kernels::kWidenedAttention, AttentionStyle::Decode, 0.03);
    }
    if (kernels::has_int8_attention()) check(kernels::kInt8Attention, AttentionStyle::Prefill, 0.03);
    if (kernels::has_int16_attention()) check(kernels::kInt16Attention, AttentionStyle::Prefill, 2e-3);
  }
}

}  // namespace
}  // namespace tiercel
