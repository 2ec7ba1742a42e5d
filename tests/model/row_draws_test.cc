#include "model/row_draws.h"

#include <random>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

// Steps of any chunks, by any number of threads: each row's token is the one that it gives alone, and the rows of who
// draws himself come back as they were.
TEST(RowDraws, AreThoseOfEachRowAloneAndLeaveTheOthers) {
  constexpr std::size_t kVocabulary = 1000;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 60; ++round) {
    ThreadTeam team(1 + random() % 3);
    RowDraws draws(kVocabulary);
    for (int step = 0; step < 3; ++step) {
      std::vector<TokenId> tokens(20);
      std::vector<kernels::SamplingRow> how(200);
      std::vector<SequenceChunk> chunks;
      std::size_t rows = 0;
      for (std::size_t c = 0; c < 1 + random() % 8; ++c) {
        SequenceChunk chunk;
        chunk.tokens = std::span(tokens).first(1 + random() % tokens.size());
        chunk.logits = static_cast<Logits>(random() % 3);
        const std::span own = std::span(how).subspan(rows, chunk.logit_rows());
        for (kernels::SamplingRow& row : own) {
          row.random = (std::uint64_t{random()} << 32) | random();
          if (random() % 2) row.temperature = 0.7f;
          if (random() % 2) row.top_k = 1 + random() % 50;
          if (random() % 2) row.top_p = 0.8f;
        }
        if (random() % 3) chunk.draws = own;
        chunks.push_back(chunk);
        rows += own.size();
      }
      std::vector<float> logits(rows * kVocabulary);
      for (float& logit : logits) logit = normal(random);

      std::vector<kernels::DrawnToken> drawn;
      std::vector<float> kept;
      std::span<const float> left = logits;
      for (const SequenceChunk& chunk : chunks) {
        for (std::size_t r = 0; r < chunk.logit_rows(); ++r, left = left.subspan(kVocabulary)) {
          const std::span<const float> row = left.first(kVocabulary);
          if (chunk.draws.empty()) {
            kept.insert(kept.end(), row.begin(), row.end());
            continue;
          }
          std::vector<float> scratch(row.begin(), row.end());
          const TokenId token = kernels::TokenDraw(kVocabulary).draw(chunk.draws[r], scratch);
          drawn.push_back({.token = token, .logprob = kernels::logprob_of(row, token)});
        }
      }
      ASSERT_EQ(draws.run(team, chunks, logits.data()), kept.size() / kVocabulary);
      ASSERT_TRUE(std::equal(kept.begin(), kept.end(), logits.begin()));
      ASSERT_EQ(draws.drawn().size(), drawn.size());
      for (std::size_t i = 0; i < drawn.size(); ++i) {
        ASSERT_EQ(draws.drawn()[i].token, drawn[i].token) << i;
        ASSERT_EQ(draws.drawn()[i].logprob, drawn[i].logprob) << i;
      }
    }
  }
}

}  // namespace
}  // namespace tiercel
