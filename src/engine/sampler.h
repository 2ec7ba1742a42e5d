// From the logits of one position to the next token, as a request's SamplingOptions ask.
//
// Tokens are ranked by logit, equal ones by id, lower first. Top-k, top-p and min-p each keep a head of that ranking,
// so together they keep the shortest of the three (top-p's probabilities are those within top-k); one draw then picks
// from what is kept. The draw is an integer: probabilities are counted in units of 2^-40 of the likeliest token's, so
// sums are exact, their order does not matter, and what is below one unit is never drawn. Random numbers are SplitMix64
// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) of the seed and the number of the
// draw. So tokens depend on the options and logits alone: not on the standard library, the machine's vector width or
// other requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling_row.h"
#include "tiercel/request.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// InvalidArgument naming the field, its value and the range that request.h gives. A bias may be -infinity, which
// forbids the token, but neither NaN nor +infinity.
Status validate(const SamplingOptions& options, std::size_t vocabulary);

// The state of one sequence. Memory is allocated by the constructor only. Not thread-safe.
class Sampler {
 public:
  // `options` have passed validate().
  Sampler(const SamplingOptions& options, std::size_t vocabulary);

  // The next token. `logits` holds one per token of the vocabulary and is used as scratch: its values are lost. NaN
  // counts as -infinity; where there is +infinity, nothing else has a chance. Takes one draw, or none where the
  // temperature is 0: then it is the first of the ranking.
  //
  // Where biases forbid every token that the model allows, they are put aside and the first of the ranking is taken.
  // Logits that are all NaN or -infinity give token 0.
  TokenId sample(std::span<float> logits);
  // Whether sample() leaves the logits as they are.
  bool keeps_logits() const;

  // Whether tokens may be drawn by whoever has the logits: no other state of the sequence is needed than what
  // next_draw() says.
  bool can_draw_elsewhere() const { return options_.logit_bias.empty() && options_.repetition_penalty == 1.0f; }
  // How to draw the token after the next `ahead` ones as sample() would.
  kernels::SamplingRow next_draw(std::size_t ahead) const;
  // A token was drawn so, instead of by sample().
  void drew_elsewhere() { draws_ += options_.temperature > 0 ? 1 : 0; }

  // `token` was seen, in the prompt or in the output: the repetition penalty applies to it from now on, once, however
  // often it was seen. Ids outside the vocabulary are ignored.
  void observe(TokenId token);

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };
  class Weights;
  static bool ranks_before(const Candidate& left, const Candidate& right);

  void apply_bias(std::span<float> logits);
  void apply_repetition_penalty(std::span<float> logits) const;
  TokenId take_first_without_bias(std::span<float> logits) const;
  std::uint64_t random_of(std::uint64_t draw) const;
  Candidate last_kept(std::span<const float> logits, const Weights& weights);
  std::span<Candidate> candidates_above(std::span<const float> logits, float floor);

  SamplingOptions options_;
  std::vector<float> unbiased_;        // logits that the biases replaced, one for each
  std::vector<bool> seen_;             // by token; empty where there is no penalty
  std::vector<TokenId> seen_tokens_;   // each once
  std::vector<Candidate> candidates_;  // one for each token; empty where neither top-k nor top-p is on
  std::uint64_t key_;                  // of the random numbers
  std::uint64_t draws_ = 0;
};

// Natural logarithm of the softmax probability of `token`, one of the vocabulary; within 1e-5 of exact, or one part in
// 10^6 where that is more. NaN and the infinities count as for sample(); a token without a chance has -infinity.
float logprob_of(std::span<const float> logits, TokenId token);

}  // namespace tiercel
