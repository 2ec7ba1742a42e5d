// y = x W^T for weights that stay in their GGUF blocks (Q4_0, Q4_1, Q8_0): made for few rows of x, where reading the
// weights is the cost. CPU, Highway.
#pragma once

#include <cstddef>

#include "gguf/gguf_file.h"

namespace tiercel::kernels {

struct QuantMatrix {
  TensorType type = TensorType::Q4_1;  // Q4_0, Q4_1 or Q8_0
  const std::byte* data = nullptr;     // [outputs][columns], rows densely packed as in the file
  std::size_t outputs = 0;
  std::size_t columns = 0;  // multiple of 32
};

enum class Rounding {
  None,  // float32 throughout
  Bf16,  // weights are rounded to bf16 before use and results afterwards, as a bf16 matrix product does it: then this
         // kernel and a bf16 GEMM over `round_to_bf16` weights differ by the order of a float32 sum only
};

bool is_quant_linear_type(TensorType type);

// y[r * y_stride + o] = sum over c of x[r * x_stride + c] * W[o][c], for r < rows and first_output <= o < last_output.
// The bits of a result depend on its own row of x and of W alone: not on rows, nor on how outputs are split among
// calls.
void quant_linear(const QuantMatrix& weights, Rounding rounding, const float* x, std::size_t x_stride, std::size_t rows,
                  float* y, std::size_t y_stride, std::size_t first_output, std::size_t last_output);

// One row of W as float32, rounded as above: out[columns].
void dequantize_row(const QuantMatrix& weights, Rounding rounding, std::size_t output, float* out);

}  // namespace tiercel::kernels
