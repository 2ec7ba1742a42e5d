// RMSNorm and SwiGLU on a GPU: the CUDA counterparts of rms_norm() and swiglu(), over rows of f32, f16 or bf16,
// computed in float32. All pointers are device memory; rows are dense, begin at multiples of 16 bytes and are whole
// multiples of 16 bytes long.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include "tiercel/types.h"

namespace tiercel::kernels::cuda {

// For each row: x += residual, rounded to the type (where residual is given); out = x / sqrt(mean(x^2) + epsilon) *
// weight.
struct RmsNormArgs {
  DType dtype = DType::BF16;  // of x, residual and out
  void* x = nullptr;
  const void* residual = nullptr;
  const float* weight = nullptr;  // [width]
  void* out = nullptr;            // may be x where there is no residual
  float epsilon = 0;
  std::size_t rows = 0, width = 0;
};
cudaError_t rms_norm(const RmsNormArgs& args, cudaStream_t stream);

// out[r][i] = silu(gate_up[r][i]) * gate_up[r][width + i].
struct SwigluArgs {
  DType dtype = DType::BF16;
  const void* gate_up = nullptr;  // [rows][2 * width]
  void* out = nullptr;            // [rows][width]
  std::size_t rows = 0, width = 0;
};
cudaError_t swiglu(const SwigluArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
