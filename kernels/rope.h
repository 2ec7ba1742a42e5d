// Rotary position embedding (Su et al. 2021) on interleaved pairs, as GGUF stores Llama weights. CPU.
#pragma once

#include <cstddef>

namespace tiercel::kernels {

// Angles of one position: cos and sin of position * frequency[i], in double before rounding, since positions are large.
// cos_sin: [pairs][2].
void rope_angles(const double* frequencies, std::size_t pairs, std::size_t position, float* cos_sin);

// Rotates the first 2 * pairs elements of each of `heads` heads of one token in place: (x[2i], x[2i + 1]) by angle i.
void rope(float* heads, std::size_t head_count, std::size_t head_dim, const float* cos_sin, std::size_t pairs);

}  // namespace tiercel::kernels
