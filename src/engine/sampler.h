// From the logits of one position to the next token, as a request's SamplingOptions ask.
//
// How a token is drawn says kernels/token_draw.h; here is what a sequence adds to it: biases, the repetition penalty
// and random numbers, which are SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
// 2014) of the seed and the number of the draw, so that they do not depend on the standard library or other requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling_row.h"
#include "kernels/token_draw.h"
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

  // The next token, as TokenDraw::draw() has it. Takes one draw, or none where the temperature is 0.
  //
  // Where biases forbid every token that the model allows, they are put aside and the first of the ranking is taken.
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
  void apply_bias(std::span<float> logits);
  void apply_repetition_penalty(std::span<float> logits) const;
  void take_back_bias(std::span<float> logits) const;
  std::uint64_t random_of(std::uint64_t draw) const;

  SamplingOptions options_;
  std::vector<float> unbiased_;       // logits that the biases replaced, one for each
  std::vector<bool> seen_;            // by token; empty where there is no penalty
  std::vector<TokenId> seen_tokens_;  // each once
  kernels::TokenDraw draw_;
  std::uint64_t key_;  // of the random numbers
  std::uint64_t draws_ = 0;
};

}  // namespace tiercel
