// From logits to tokens on a GPU: the CUDA counterpart of Sampler (engine/sampler.h), which draws the same tokens from
// the same logits and random numbers, bit for bit. Biases and the repetition penalty have been applied before.
// Log-probabilities are those of logprob_of(), to 1e-6.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include "kernels/sampling_row.h"

namespace tiercel::kernels::cuda {

// All pointers are device memory.
struct SamplingArgs {
  const float* logits = nullptr;  // [rows][stride]
  std::size_t stride = 0;
  std::size_t vocabulary = 0;  // at least 1, below 2^31
  std::size_t rows = 0;
  const SamplingRow* options = nullptr;  // [rows]
  DrawnToken* drawn = nullptr;           // [rows]
};
cudaError_t sample(const SamplingArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
