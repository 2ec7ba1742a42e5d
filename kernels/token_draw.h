// From a row of logits to the next token. CPU.
//
// Tokens are ranked by logit, equal ones by id, lower first. Top-k, top-p and min-p each keep a head of that ranking,
// so together they keep the shortest of the three (top-p's probabilities are those within top-k); one draw then picks
// from what is kept. The draw is an integer: probabilities are counted in units of 2^-40 of the likeliest token's, so
// sums are exact, their order does not matter, and what is below one unit is never drawn. So tokens depend on the
// options, the random number and the logits alone: not on the machine's vector width or other rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling_row.h"
#include "tiercel/types.h"

namespace tiercel::kernels {

// Memory for draws, of which it makes one at a time.
class TokenDraw {
 public:
  // Of rows of so many logits; 0 is enough where neither top-k nor top-p is on. Nothing is allocated later.
  explicit TokenDraw(std::size_t vocabulary) : candidates_(vocabulary) {}

  // `logits` holds one per token of the vocabulary and is used as scratch: its values are lost, except where the
  // temperature is 0. NaN counts as -infinity; where there is +infinity, nothing else has a chance. Logits that are all
  // NaN or -infinity give token 0.
  TokenId draw(const SamplingRow& how, std::span<float> logits);

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };
  class Weights;
  static bool ranks_before(const Candidate& left, const Candidate& right);

  Candidate last_kept(const SamplingRow& how, std::span<const float> logits, const Weights& weights);
  std::span<Candidate> candidates_above(std::span<const float> logits, float floor);

  std::vector<Candidate> candidates_;
};

// The largest logit; -infinity where there are only NaNs.
float largest_logit(std::span<const float> logits);

// Natural logarithm of the softmax probability of `token`, one of the vocabulary; within 1e-5 of exact, or one part in
// 10^6 where that is more. NaN and the infinities count as for draw(); a token without a chance has -infinity.
float logprob_of(std::span<const float> logits, TokenId token);

}  // namespace tiercel::kernels
