// Draws tokens from a step's rows of logits on the CPU, by all threads: one alone would take as long for 32 rows of a
// small model as all of its layers' attention.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "kernels/token_draw.h"
#include "model/model_runner.h"

namespace tiercel {

class RowDraws {
 public:
  explicit RowDraws(std::size_t vocabulary) : vocabulary_(vocabulary) {}

  // `logits` has the rows of the chunks, one after another. Those of chunks with `draws` are drawn from and lost; the
  // others move to the front. Returns how many these are.
  std::size_t run(ThreadTeam& team, std::span<const SequenceChunk> chunks, float* logits);
  // Of the last run, in its order.
  std::span<const kernels::DrawnToken> drawn() const { return drawn_; }

 private:
  // Of a thread. As large as the vocabulary when a draw comes that spoils its row.
  struct Scratch {
    std::vector<float> row;
    kernels::TokenDraw draw{0};
  };
  struct Draw {
    const kernels::SamplingRow* how;
    float* row;
  };

  std::size_t vocabulary_;
  std::vector<Scratch> scratch_;
  std::vector<Draw> draws_;
  std::vector<kernels::DrawnToken> drawn_;
};

}  // namespace tiercel
