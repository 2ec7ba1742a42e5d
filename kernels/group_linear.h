// y = x W^T for weights in groups (group_weights.h), for any number of rows of x: one row costs the reading of the
// weights, many cost their arithmetic. CPU.
//
// The bits of a result depend on its own row of x and on W alone: not on how many rows there are, nor on how outputs
// are split among calls. So a token's arithmetic is the same in every batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/group_weights.h"

namespace tiercel::kernels {

// y[r * y_stride + o] = sum over c of x[r * x_stride + c] * W[o][c], for r < rows and first_output <= o < last_output.
// first_output is a multiple of 16, and so is last_output unless it is w.outputs. Float32 throughout. Highway.
void group_linear(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, std::size_t first_output, std::size_t last_output);

// Rows of x as the processor multiplies them fastest: rounded to bf16, with the sum of every group's 32 columns (of the
// rounded values), which a group's minimum is multiplied with.
struct Bf16Rows {
  const std::uint16_t* values = nullptr;
  std::size_t stride = 0;
  const float* sums = nullptr;
  std::size_t sum_stride = 0;
};

// Whether this processor multiplies bf16 (AVX512-BF16). Without it the two below must not be called.
bool has_bf16_products();
// columns is a multiple of 32.
void round_rows(const float* x, std::size_t x_stride, std::size_t rows, std::size_t columns, std::uint16_t* values,
                std::size_t stride, float* sums, std::size_t sum_stride);
// As above, with weights exact (a nibble or a byte is one in bf16 too; scales and sums are float32).
void group_linear_bf16(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output);

}  // namespace tiercel::kernels
