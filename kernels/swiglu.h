// SwiGLU (Shazeer 2020): the gate of a feed-forward layer. CPU, Highway.
#pragma once

#include <cstddef>

namespace tiercel::kernels {

// out[r][i] = silu(gate_up[r][i]) * gate_up[r][width + i]. gate_up: [rows][2 * width], dense; out: [rows][out_stride].
void swiglu(const float* gate_up, std::size_t rows, std::size_t width, float* out, std::size_t out_stride);

}  // namespace tiercel::kernels
