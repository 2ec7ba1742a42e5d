// SwiGLU (Shazeer 2020): the gate of a feed-forward layer. CPU, Highway.
#pragma once

#include <cstddef>

namespace tiercel::kernels {

// out[r][i] = silu(gate_up[r][i]) * gate_up[r][width + i], for begin <= i < end.
// gate_up: [rows][2 * width]; out: [rows][width]; both dense.
void swiglu(const float* gate_up, std::size_t rows, std::size_t width, std::size_t begin, std::size_t end, float* out);

}  // namespace tiercel::kernels
