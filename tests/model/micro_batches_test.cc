#include "model/micro_batches.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(MicroBatches, AreAsManyAsHaveRowsEnough) {
  EXPECT_EQ(count_micro_batches(0, 1), 1u);
  EXPECT_EQ(count_micro_batches(kMostMicroBatchRows, 1), 1u);
  EXPECT_EQ(count_micro_batches(kMostMicroBatchRows + 1, 1), 2u);
  EXPECT_EQ(count_micro_batches(0, 2), 1u);
  EXPECT_EQ(count_micro_batches(2 * kMicroBatchRows - 1, 2), 1u);
  EXPECT_EQ(count_micro_batches(2 * kMicroBatchRows, 2), 2u);
  EXPECT_EQ(count_micro_batches(5 * kMicroBatchRows, 3), 5u);
  EXPECT_EQ(count_micro_batches(2'000, 2), 2 * kMicroBatchesOfStage);
  EXPECT_EQ(count_micro_batches(100 * kMostMicroBatchRows, 2), 100u);
}

// A step on a GPU that is one stage's is never cut.
TEST(MicroBatches, OfAGpuHaveMoreRows) {
  EXPECT_EQ(count_device_micro_batches(100'000, 1), 1u);
  EXPECT_EQ(count_device_micro_batches(0, 2), 1u);
  EXPECT_EQ(count_device_micro_batches(2 * kDeviceMicroBatchRows - 1, 2), 1u);
  EXPECT_EQ(count_device_micro_batches(2 * kDeviceMicroBatchRows, 2), 2u);
  EXPECT_EQ(count_device_micro_batches(100'000, 3), 3 * kMicroBatchesOfStage);
}

// Chunks of random sizes: every row is in one place, in the step's order, with its position and what was asked of it.
TEST(MicroBatches, EveryRowIsInOneInTheStepsOrder) {
  MicroBatches micro_batches;
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::vector<TokenId>> tokens(1 + random() % 20);
    std::vector<BlockId> table = {4, 2};
    std::vector<SequenceChunk> chunks;
    TokenId next = 0;
    std::vector<kernels::SamplingRow> draws(21 * 200);  // by token
    for (std::size_t i = 0; i < draws.size(); ++i) draws[i].random = i;
    for (auto& of_chunk : tokens) {
      of_chunk.resize(1 + (random() % 3 == 0 ? random() % 200 : random() % 3));
      std::iota(of_chunk.begin(), of_chunk.end(), next);
      next += static_cast<TokenId>(of_chunk.size());
      chunks.push_back({.tokens = of_chunk,
                        .first_position = random() % 1000,
                        .block_table = table,
                        .logits = static_cast<Logits>(random() % 3),
                        .arithmetic = static_cast<Arithmetic>(random() % 3)});
      SequenceChunk& chunk = chunks.back();
      if (random() % 2 == 0 || chunk.logits == Logits::None) continue;
      const std::size_t drawn = chunk.logits == Logits::All ? of_chunk.size() : 1;
      chunk.draws = std::span(draws).subspan(static_cast<std::size_t>(next) - drawn, drawn);
    }
    const auto rows = static_cast<std::size_t>(next);
    const std::size_t count = 1 + random() % std::min<std::size_t>(rows, 12);
    const auto batches = micro_batches.cut(chunks, count);
    ASSERT_EQ(batches.size(), count);
    std::size_t row = 0, wanted = 0;
    for (const auto& batch : batches) {
      const std::size_t first = row;
      for (const SequenceChunk& part : batch) {
        ASSERT_FALSE(part.tokens.empty());
        const auto from = std::ranges::find_if(
            chunks, [&](const SequenceChunk& chunk) { return part.tokens[0] <= chunk.tokens.back(); });
        ASSERT_EQ(part.tokens[0], static_cast<TokenId>(row));
        ASSERT_EQ(part.first_position - from->first_position,
                  static_cast<std::size_t>(part.tokens[0] - from->tokens[0]));
        ASSERT_EQ(part.arithmetic, from->arithmetic);
        ASSERT_EQ(part.block_table.data(), table.data());
        const bool has_end = part.tokens.back() == from->tokens.back();
        ASSERT_EQ(part.logits, from->logits == Logits::Last && !has_end ? Logits::None : from->logits);
        ASSERT_LE(part.tokens.back(), from->tokens.back());
        const bool draws_here = !from->draws.empty() && part.logits != Logits::None;
        const std::size_t drawn = part.logits == Logits::All ? part.tokens.size() : 1;
        ASSERT_EQ(part.draws.size(), draws_here ? drawn : 0);
        if (draws_here) {
          ASSERT_EQ(part.draws.back().random, static_cast<std::uint64_t>(part.tokens.back()));
        }
        row += part.tokens.size();
        wanted += part.logits == Logits::All ? part.tokens.size() : part.logits == Logits::Last ? 1 : 0;
      }
      ASSERT_GE(row - first, rows / count);
      ASSERT_LE(row - first, rows / count + 1);
    }
    ASSERT_EQ(row, rows);
    std::size_t asked = 0;
    for (const SequenceChunk& chunk : chunks) {
      asked += chunk.logits == Logits::All ? chunk.tokens.size() : chunk.logits == Logits::Last ? 1 : 0;
    }
    ASSERT_EQ(wanted, asked);
  }
}

}  // namespace
}  // namespace tiercel
