#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/thread_team.h"
#include "gguf/dequantize.h"
#include "kernels/attention_plan.h"
#include "kernels/group_linear.h"
#include "kernels/kv_code.h"
#include "tests/kernels/aligned_floats.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

using kernels::AttentionKernel;
using kernels::AttentionStyle;

// A sequence whose KV lies in blocks scattered over an arena that is full of large garbage elsewhere.
struct Case {
  Case(DType dtype, std::size_t head_dim, std::size_t kv_heads, std::size_t group_, std::size_t block_tokens,
       std::size_t length_, unsigned seed)
      : length(length_), group(group_), random(seed) {
    layout = {.layers = 3,
              .kv_heads = static_cast<std::uint32_t>(kv_heads),
              .head_dim = static_cast<std::uint32_t>(head_dim),
              .block_tokens = static_cast<std::uint32_t>(block_tokens),
              .dtype = dtype};
    const std::size_t blocks = (length + block_tokens - 1) / block_tokens, arena_blocks = blocks + 3;
    arena.resize(arena_blocks * layout.block_stride() + 64);
    base = arena.data() + (64 - reinterpret_cast<std::uintptr_t>(arena.data()) % 64) % 64;
    // Finite as an element of every type, no number as a scale.
    std::fill(arena.begin(), arena.end(), dtype == DType::Int8 ? std::byte{0xff} : std::byte{0x47});
    table.resize(arena_blocks);
    std::iota(table.begin(), table.end(), 0u);
    std::shuffle(table.begin(), table.end(), random);
    table.resize(blocks);

    std::normal_distribution<float> normal;
    const std::size_t width = kv_heads * head_dim;
    keys.resize(length * width);
    values.resize(length * width);
    for (float& k : keys) k = stored(normal(random));
    for (float& v : values) v = stored(normal(random));
    if (dtype == DType::Int8) {
      for (std::size_t row = 0; row < length * kv_heads; ++row) {
        // Of magnitudes that differ from row to row.
        for (float* at : {&keys[row * head_dim], &values[row * head_dim]}) {
          const float magnitude = std::exp2(-std::abs(normal(random)));
          for (std::size_t i = 0; i < head_dim; ++i) at[i] *= magnitude;
          const std::vector<float> exact(at, at + head_dim);
          std::vector<std::byte> codes(head_dim + 2);
          kernels::encode_row(kernels::KvCode::Int8, at, head_dim, codes.data(), codes.data() + head_dim);
          kernels::decode_row(kernels::KvCode::Int8, codes.data(), codes.data() + head_dim, head_dim, at);
          if (at == &keys[row * head_dim]) {
            exact_keys.insert(exact_keys.end(), exact.begin(), exact.end());
          } else {
            exact_values.insert(exact_values.end(), exact.begin(), exact.end());
          }
        }
      }
    } else {
      exact_keys = keys;
      exact_values = values;
    }
    for (std::size_t t = 0; t < length; ++t) append(t);
    q_stride = kv_heads * group * head_dim + 5;
    q.resize(length * q_stride);
    for (float& value : q) value = normal(random);
  }

  void append(std::size_t position) {
    const std::size_t at = position * layout.kv_heads * layout.head_dim;
    kernels::append_kv({base, layout, 1}, table[position / layout.block_tokens], position % layout.block_tokens,
                       &exact_keys[at], &exact_values[at]);
  }
  // The same key, and the same value, in all dims: exact in every type.
  void set(std::size_t position, float key, float value) {
    const std::size_t width = layout.kv_heads * layout.head_dim;
    for (auto* all : {&keys, &exact_keys}) std::fill_n(all->begin() + position * width, width, key);
    for (auto* all : {&values, &exact_values}) std::fill_n(all->begin() + position * width, width, value);
    append(position);
  }

  // The value that comes back from a block.
  float stored(float value) const {
    if (layout.dtype == DType::F16) return half_to_float(float_to_half(value));
    if (layout.dtype == DType::BF16) return bf16_to_float(float_to_bf16(value));
    return value;
  }

  kernels::AttentionArgs args(std::size_t first, std::size_t tokens, AttentionStyle style, float* out) const {
    return {.kv = {base, layout, 1},
            .block_table = table.data(),
            .first_position = first,
            .tokens = tokens,
            .group = group,
            .q = q.data() + first * q_stride,
            .q_stride = q_stride,
            .out = out + first * q_stride,
            .out_stride = q_stride,
            .scale = scale(),
            .style = style};
  }

  // `in_sections`: one call for each section of the context, the last first.
  std::vector<float> run(std::size_t first, std::size_t tokens, AttentionStyle style,
                         const AttentionKernel& kernel = kernels::kAttention, bool in_sections = false) {
    std::vector<float> out(length * q_stride, 77.0f);
    const std::size_t sections = kernel.sections(layout, first + tokens);
    const AlignedFloats scratch(kernel.scratch_floats(layout, tokens, group));
    const AlignedFloats states(sections * kernel.state_floats(layout, tokens, group));
    kernels::AttentionArgs call = args(first, tokens, style, out.data());
    for (call.kv_head = 0; call.kv_head < layout.kv_heads; ++call.kv_head) {
      if (!in_sections) {
        kernel.attend(call, scratch.start);
        continue;
      }
      call.states = states.start;
      for (call.section = sections; call.section-- > 0;) kernel.attend(call, scratch.start);
      kernel.merge_sections(call);
    }
    return out;
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(layout.head_dim)); }

  std::vector<double> reference(std::size_t position, std::size_t head) const {
    const std::size_t dim = layout.head_dim, width = layout.kv_heads * dim, kv = head / group * dim;
    std::vector<double> scores(position + 1), out(dim, 0.0);
    for (std::size_t t = 0; t <= position; ++t) {
      for (std::size_t i = 0; i < dim; ++i)
        scores[t] += double{q[position * q_stride + head * dim + i]} * keys[t * width + kv + i];
      scores[t] *= scale();
    }
    const double top = *std::ranges::max_element(scores);
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (std::size_t t = 0; t <= position; ++t) {
      for (std::size_t i = 0; i < dim; ++i) out[i] += scores[t] / total * values[t * width + kv + i];
    }
    return out;
  }

  std::size_t length, group, q_stride = 0;
  std::mt19937 random;
  KvLayout layout;
  std::vector<std::byte> arena;
  std::byte* base = nullptr;
  std::vector<BlockId> table;
  std::vector<float> exact_keys, exact_values;  // as they are given
  std::vector<float> keys, values, q;           // as they come back
};

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
      Case c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 5);
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
      Case c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 6);
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
    Case c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 5);
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
  Case c(s.dtype, s.head_dim, s.kv_heads, s.group, s.block_tokens, s.length, 9);
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
    Case c(DType::BF16, 64, 1, 1, 32, 900, 3);
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
    Case c(DType::BF16, head_dim, 1, 2, 32, 300, 4);
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

// Whatever a step has, and however many threads: what each query gets is what one call gives. One long context beside
// short ones is cut.
TEST(AttentionPlan, GivesWhatOneCallGives) {
  Case c(DType::F32, 32, 2, 2, 32, 1500, 10);
  std::mt19937 random(11);
  for (int round = 0; round < 30; ++round) {
    const std::size_t threads = 1 + random() % 4;
    ThreadTeam team(threads);
    kernels::AttentionPlan plan(kernels::kAttention, c.layout, c.group, threads);
    const AlignedFloats workspace(plan.workspace_floats());
    plan.set_workspace(workspace.start);
    plan.add(c.args(3, 1, AttentionStyle::Decode, nullptr));  // forgotten
    plan.clear();
    std::vector<std::pair<std::size_t, std::size_t>> runs;
    std::vector<std::vector<float>> outs;
    for (std::size_t i = 0; i <= random() % 4; ++i) {
      const std::size_t tokens = 1 + random() % (random() % 2 ? 150 : 4);
      runs.emplace_back(random() % (c.length - tokens), tokens);
      outs.emplace_back(c.length * c.q_stride, 77.0f);
    }
    for (std::size_t i = 0; i < runs.size(); ++i) {
      plan.add(c.args(runs[i].first, runs[i].second, AttentionStyle::Decode, outs[i].data()));
    }
    plan.finish();
    plan.run(team, 1);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      ASSERT_EQ(outs[i], c.run(runs[i].first, runs[i].second, AttentionStyle::Decode)) << "round " << round;
    }
  }
}

// Sequences that begin with the same blocks, for as many spans as the seed says, and go on with their own: the bits are
// those of each alone, and there are fewer tasks than sequences have heads.
TEST(AttentionPlan, ReadsSharedBlocksOnceAndChangesNoBit) {
  if (!kernels::has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  std::mt19937 random(14);
  std::size_t together = 0;
  for (int round = 0; round < 16; ++round) {
    // Styles that give different bits are not put together.
    const bool has_styles = round % 4 == 3 && kernels::has_int8_attention();
    const bool in_words = round % 8 == 7 && kernels::has_int16_attention();
    const AttentionKernel& kernel = in_words     ? kernels::kInt16Attention
                                    : has_styles ? kernels::kInt8Attention
                                                 : kernels::kBf16Attention;
    Case c(round % 2 ? DType::Int8 : DType::BF16, random() % 2 ? 64 : 80, 1 + random() % 3, 1 + random() % 4, 32, 1216,
           20 + random());
    const std::size_t threads = 1 + random() % 2, prefixes = 1 + random() % 3, sequences = 16 + random() % 20;
    ThreadTeam team(threads);
    kernels::AttentionPlan plan(kernel, c.layout, c.group, threads);
    const AlignedFloats workspace(plan.workspace_floats());
    plan.set_workspace(workspace.start);
    struct Sequence {
      std::vector<BlockId> table;
      std::size_t first, tokens;
      std::vector<float> out, alone;
    };
    std::vector<Sequence> all(sequences);
    std::size_t tasks = 0;
    for (Sequence& one : all) {
      one.tokens = 1 + random() % (random() % 8 ? 8 : 40);
      one.first = random() % (random() % 2 ? 300 : c.length - one.tokens);
      one.table = c.table;
      // Blocks of its own from some block on: those of the context in another order.
      const auto own = one.table.begin() + static_cast<std::ptrdiff_t>(3 + random() % (one.table.size() - 3));
      if (random() % 4) std::shuffle(own, one.table.end(), random);
      std::rotate(one.table.begin(), one.table.begin() + static_cast<std::ptrdiff_t>(random() % prefixes), own);
      one.out.assign(c.length * c.q_stride, 77.0f);
      one.alone = one.out;
      const AlignedFloats scratch(kernel.scratch_floats(c.layout, one.tokens, c.group));
      const AttentionStyle style = has_styles && random() % 3 == 0 ? AttentionStyle::Prefill : AttentionStyle::Decode;
      kernels::AttentionArgs call = c.args(one.first, one.tokens, style, one.alone.data());
      call.block_table = one.table.data();
      for (call.kv_head = 0; call.kv_head < c.layout.kv_heads; ++call.kv_head) kernel.attend(call, scratch.start);
      call.out = one.out.data() + one.first * c.q_stride;
      plan.add(call);
      tasks += c.layout.kv_heads;
    }
    plan.finish();
    plan.run(team, 1);
    for (const Sequence& one : all) ASSERT_EQ(one.out, one.alone) << "round " << round;
    together += plan.tasks() < tasks;
  }
  EXPECT_GT(together, 4u) << "shared nothing";
}

TEST(AttentionPlan, CutsALongContextForAllThreadsToShare) {
  Case c(DType::F32, 32, 1, 1, 32, 3000, 12);
  std::vector<float> out(c.length * c.q_stride);
  kernels::AttentionPlan plan(kernels::kAttention, c.layout, 1, 3);
  const AlignedFloats workspace(plan.workspace_floats());
  plan.set_workspace(workspace.start);
  plan.add(c.args(2900, 1, AttentionStyle::Decode, out.data()));
  plan.add(c.args(10, 1, AttentionStyle::Decode, out.data()));
  plan.finish();
  EXPECT_EQ(plan.tasks(), kernels::kAttention.sections(c.layout, 2901) + 1);
}

TEST(PagedAttention, LargeScoresDoNotOverflow) {
  for_every_target([] {
    Case c(DType::F32, 64, 1, 1, 32, 50, 7);
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

TEST(AppendKv, WritesOnlyTheTokensOwnPlaces) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    for_every_target([&] {
      Case c(dtype, 64, 2, 1, 8, 3, 8);
      std::vector<std::byte> before(c.arena);
      const std::vector<float> ones(2 * 64, 1.0f), twos(2 * 64, 2.0f);
      kernels::append_kv({c.base, c.layout, 2}, c.table[0], 5, ones.data(), twos.data());
      const std::size_t size = size_of(dtype);
      for (std::size_t i = 0; i < c.layout.block_elements(); ++i) {
        const std::size_t token = i / 64 % 8, layer = i / c.layout.layer_stride();
        const bool is_value = i % c.layout.layer_stride() >= c.layout.value_offset();
        const std::byte* at = c.base + c.table[0] * c.layout.block_bytes() + i * size;
        if (layer != 2 || token != 5) {
          ASSERT_EQ(std::memcmp(at, before.data() + (at - c.arena.data()), size), 0) << "element " << i;
          continue;
        }
        std::uint32_t bits = 0;
        std::memcpy(&bits, at, size);
        float value;
        std::memcpy(&value, &bits, 4);
        if (dtype == DType::F16) value = half_to_float(static_cast<std::uint16_t>(bits));
        if (dtype == DType::BF16) value = bf16_to_float(static_cast<std::uint16_t>(bits));
        ASSERT_EQ(value, is_value ? 2.0f : 1.0f) << "element " << i;
      }
    });
  }
}

// Every byte of an arena is as the plain kernel leaves it: rows of any size, zeros and very small and large values
// among them.
TEST(AppendKv, CodesAndScalesAreThoseOfThePlainKernel) {
  for_every_target([] {
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    for (int round = 0; round < 40; ++round) {
      const KvLayout layout{.layers = 2,
                            .kv_heads = static_cast<std::uint32_t>(1 + random() % 4),
                            .head_dim = static_cast<std::uint32_t>(16 * (1 + random() % 16)),
                            .block_tokens = 8u << random() % 5,
                            .dtype = DType::Int8};
      const std::size_t width = layout.kv_heads * layout.head_dim, block = random() % 2;
      const std::size_t layer = random() % 2, token = random() % layout.block_tokens;
      std::vector<float> k(width), v(width);
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        const float magnitude = std::exp2(static_cast<float>(static_cast<int>(random() % 200) - 110));
        for (std::size_t i = head * layout.head_dim; i < (head + 1) * layout.head_dim; ++i) {
          k[i] = magnitude * normal(random);
          v[i] = random() % 4 == 0 ? 0.0f : normal(random) / magnitude;
        }
      }
      std::vector<std::byte> arena(2 * layout.block_stride());
      for (std::byte& byte : arena) byte = static_cast<std::byte>(random());
      std::vector<std::byte> expected = arena;
      kernels::append_kv({arena.data(), layout, layer}, static_cast<BlockId>(block), token, k.data(), v.data());

      const kernels::CodedKvLayout coded{layout, kernels::KvCode::Int8};
      ASSERT_EQ(coded.block_bytes(), layout.block_bytes());
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        std::byte* at =
            expected.data() + block * layout.block_stride() + layer * coded.layer_stride() + head * coded.head_stride();
        for (const std::vector<float>* from : {&k, &v}) {
          kernels::encode_row(kernels::KvCode::Int8, from->data() + head * layout.head_dim, layout.head_dim,
                              at + token * coded.row_bytes(), at + coded.scale_offset() + token * coded.scale_bytes());
          at += coded.value_offset();
        }
      }
      ASSERT_EQ(arena, expected) << "round " << round << ", head_dim " << layout.head_dim;
    }
  });
}

// Whatever the shape, and whichever kernel.
TEST(Int8Attention, AgreesWithADoubleReferenceForRandomShapes) {
  std::mt19937 random(21);
  for (int round = 0; round < 40; ++round) {
    const std::size_t head_dim = 16 * (1 + random() % 16), kv_heads = 1 + random() % 3, group = 1 + random() % 9;
    const std::size_t block_tokens = std::size_t{8} << random() % 5, length = 1 + random() % 400;
    Case c(DType::Int8, head_dim, kv_heads, group, block_tokens, length, static_cast<unsigned>(random()));
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
