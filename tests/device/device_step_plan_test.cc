// What kernels are told of random steps, against the chunks they were made of.
#include "model/device_step_plan.h"

#include <algorithm>
#include <bit>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

constexpr KvLayout kLayout = {.layers = 1, .kv_heads = 1, .head_dim = 64, .block_tokens = 16, .dtype = DType::BF16};

TEST(DeviceStepPlan, EveryTokenHasARowThatSaysWhatItIs) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const DeviceStepLimits limits{.rows = 200,
                                  .sequences = 8,
                                  .logit_rows = 200,
                                  .context_tokens = 300,
                                  .has_prefill_attention = random() % 4 != 0};
    DeviceStepPlan plan(kLayout, limits);
    std::vector<std::uint32_t> words(plan.offsets().words, 0xdeadbeef);
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::vector<BlockId>> tables;
    std::vector<std::vector<kernels::SamplingRow>> draws(8);
    std::vector<SequenceChunk> chunks;
    const std::size_t count = 1 + random() % 8;
    BlockId next_block = 0;
    for (std::size_t c = 0; c < count; ++c) {
      tokens.emplace_back(random() % 3 == 0 ? 1 + random() % 25 : 1);
      for (TokenId& token : tokens.back()) token = static_cast<TokenId>(random() % 1000);
    }
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t first = random() % (300 - tokens[c].size());
      tables.emplace_back(kLayout.blocks_for(first + tokens[c].size()) + random() % 3);
      for (BlockId& block : tables.back()) block = next_block++;
      chunks.push_back({.tokens = tokens[c],
                        .first_position = first,
                        .block_table = tables[c],
                        .logits = static_cast<Logits>(random() % 3),
                        .arithmetic = static_cast<Arithmetic>(random() % 3)});
      if (random() % 2 == 0 || chunks.back().logits == Logits::None) continue;
      draws[c].resize(chunks.back().logits == Logits::All ? tokens[c].size() : 1);
      for (kernels::SamplingRow& draw : draws[c]) draw.random = random();
      chunks.back().draws = draws[c];
    }
    plan.build(chunks, words.data());
    const DeviceStepPlan::Offsets& at = plan.offsets();
    ASSERT_LE(plan.words_used(), words.size());
    EXPECT_TRUE(std::has_single_bit(plan.table_stride()));

    // Where a chunk's rows are: the one of its first token's slot, since no two tokens share one.
    std::size_t rows = 0;
    std::vector<std::uint32_t> returned, drawn;
    std::vector<std::uint64_t> randoms;
    for (std::size_t c = 0; c < count; ++c) {
      const SequenceChunk& chunk = chunks[c];
      const auto slot = [&](std::size_t position) {
        return chunk.block_table[position / 16] * 16 + static_cast<std::uint32_t>(position % 16);
      };
      std::size_t row = 0;
      while (row < plan.rows() && words[at.slots + row] != slot(chunk.first_position)) ++row;
      ASSERT_LT(row, plan.rows());
      const DeviceStepPlan::Rows same = plan.of(chunk.arithmetic);
      EXPECT_GE(row, same.begin);
      EXPECT_LE(row + chunk.tokens.size(), same.end);
      const bool decodes = row < plan.decode_rows();
      if (!limits.has_prefill_attention || chunk.arithmetic == Arithmetic::Decode)
        EXPECT_TRUE(decodes);
      else if (chunk.arithmetic == Arithmetic::Prefill)
        EXPECT_FALSE(decodes);
      else
        EXPECT_EQ(decodes, chunk.tokens.size() < 8);
      std::size_t sequence = words[at.row_sequences + row];
      if (!decodes) {
        std::size_t place = 0;
        while (words[at.query_begins + place] != row - plan.decode_rows()) ++place;
        ASSERT_LT(place, plan.prefill_sequences());
        EXPECT_EQ(words[at.query_begins + place + 1], row - plan.decode_rows() + chunk.tokens.size());
        EXPECT_EQ(words[at.lengths + place], chunk.first_position + chunk.tokens.size());
        EXPECT_LE(chunk.tokens.size(), plan.most_queries());
        sequence = plan.decode_sequences() + place;
      }
      for (std::size_t b = 0; b < kLayout.blocks_for(chunk.first_position + chunk.tokens.size()); ++b) {
        ASSERT_EQ(words[at.tables + sequence * plan.table_stride() + b], chunk.block_table[b]);
      }
      for (std::size_t t = 0; t < chunk.tokens.size(); ++t, ++rows) {
        const std::size_t position = chunk.first_position + t;
        ASSERT_EQ(words[at.tokens + row + t], static_cast<std::uint32_t>(chunk.tokens[t]));
        ASSERT_EQ(words[at.positions + row + t], position);
        ASSERT_EQ(words[at.slots + row + t], slot(position));
        if (decodes) {
          ASSERT_EQ(words[at.row_sequences + row + t], sequence);
          ASSERT_EQ(words[at.row_lengths + row + t], position + 1);
          ASSERT_GE(plan.longest_decode(), position + 1);
        }
        if (chunk.logits == Logits::All || (chunk.logits == Logits::Last && t + 1 == chunk.tokens.size())) {
          (chunk.draws.empty() ? returned : drawn).push_back(static_cast<std::uint32_t>(row + t));
        }
      }
      for (const kernels::SamplingRow& draw : chunk.draws) randoms.push_back(draw.random);
    }
    ASSERT_EQ(plan.wanted(), returned.size() + drawn.size());
    ASSERT_EQ(plan.drawn(), drawn.size());
    const auto wanted = std::span(words).subspan(at.wanted, plan.wanted());
    EXPECT_TRUE(std::ranges::equal(wanted.first(returned.size()), returned));
    EXPECT_TRUE(std::ranges::equal(wanted.last(drawn.size()), drawn));
    ASSERT_EQ(at.draws % 2, 0u);
    const auto* rows_to_draw = reinterpret_cast<const kernels::SamplingRow*>(words.data() + at.draws);
    EXPECT_TRUE(
        std::ranges::equal(std::span(rows_to_draw, randoms.size()), randoms, {}, &kernels::SamplingRow::random));
    EXPECT_EQ(plan.rows(), rows);
    EXPECT_EQ(
        plan.of(Arithmetic::Any).count() + plan.of(Arithmetic::Prefill).count() + plan.of(Arithmetic::Decode).count(),
        rows);
  }
}

}  // namespace
}  // namespace tiercel
