#include "model/row_draws.h"

#include <algorithm>

namespace tiercel {

std::size_t RowDraws::run(ThreadTeam& team, std::span<const SequenceChunk> chunks, float* logits) {
  draws_.clear();
  bool spoils = false;
  float* row = logits;
  for (const SequenceChunk& chunk : chunks) {
    for (std::size_t i = 0; i < chunk.draws.size(); ++i) {
      draws_.push_back({&chunk.draws[i], row + i * vocabulary_});
      spoils = spoils || chunk.draws[i].temperature > 0;
    }
    row += chunk.logit_rows() * vocabulary_;
  }
  scratch_.resize(team.threads());
  if (spoils && scratch_.front().row.empty()) {
    for (Scratch& scratch : scratch_) {
      scratch = {.row = std::vector<float>(vocabulary_), .draw = kernels::TokenDraw(vocabulary_)};
    }
  }
  drawn_.resize(draws_.size());
  team.run(draws_.size(), [&](std::size_t i, std::size_t thread) {
    const kernels::SamplingRow& how = *draws_[i].how;
    const std::span<float> of_row(draws_[i].row, vocabulary_);
    Scratch& scratch = scratch_[thread];
    std::span<float> used = of_row;
    if (how.temperature > 0) {
      std::ranges::copy(of_row, scratch.row.begin());
      used = scratch.row;
    }
    const TokenId token = scratch.draw.draw(how, used);
    drawn_[i] = {.token = token, .logprob = kernels::logprob_of(of_row, token)};
  });

  float* to = logits;
  float* from = logits;
  for (const SequenceChunk& chunk : chunks) {
    const std::size_t floats = chunk.logit_rows() * vocabulary_;
    if (chunk.draws.empty()) {
      if (to != from) std::copy_n(from, floats, to);
      to += floats;
    }
    from += floats;
  }
  return static_cast<std::size_t>(to - logits) / vocabulary_;
}

}  // namespace tiercel
