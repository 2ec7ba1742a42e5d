// How a token is drawn from a row of logits, and what it is then, where that is done beside the logits. No CUDA here.
#pragma once

#include <cstdint>

#include "tiercel/types.h"

namespace tiercel::kernels {

// The first four as SamplingOptions has them.
struct SamplingRow {
  float temperature = 0;  // 0: the likeliest token
  float top_p = 1;
  float min_p = 0;
  std::uint32_t top_k = 0;   // 0: off
  std::uint64_t random = 0;  // of this draw
};

struct DrawnToken {
  TokenId token = 0;
  float logprob = 0;  // natural logarithm of its probability, whatever the options
};

}  // namespace tiercel::kernels
