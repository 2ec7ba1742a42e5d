// From logits to tokens on a GPU: the CUDA counterpart of Sampler (engine/sampler.h), which draws the same tokens from
// the same logits and random numbers, bit for bit. Biases and the repetition penalty have been applied before.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "tiercel/types.h"

namespace tiercel::kernels::cuda {

// As SamplingOptions has them.
struct SamplingRow {
  float temperature = 0;  // 0: the likeliest token
  float top_p = 1;
  float min_p = 0;
  std::uint32_t top_k = 0;  // 0: off
  std::uint64_t random = 0;
};

// All pointers are device memory.
struct SamplingArgs {
  const float* logits = nullptr;  // [rows][stride]
  std::size_t stride = 0;
  std::size_t vocabulary = 0;  // at least 1, below 2^31
  std::size_t rows = 0;
  const SamplingRow* options = nullptr;  // [rows]
  TokenId* tokens = nullptr;             // [rows]
};
cudaError_t sample(const SamplingArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
