// RMSNorm (Zhang and Sennrich 2019), fused with the residual addition before it. CPU, Highway.
#pragma once

#include <cstddef>

namespace tiercel::kernels {

// For each of `rows` rows of `width`:
//   x += residual                         (where residual is given)
//   out = x / sqrt(mean(x^2) + epsilon) * weight
// Rows are dense. x and out may not overlap.
void rms_norm(float* x, const float* residual, const float* weight, float epsilon, std::size_t rows, std::size_t width,
              float* out);

}  // namespace tiercel::kernels
