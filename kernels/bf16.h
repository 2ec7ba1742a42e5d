// Float32 to bf16 and back, for whole arrays. CPU, Highway.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tiercel::kernels {

void float_to_bf16(const float* in, std::uint16_t* out, std::size_t count);  // to nearest, ties to even
void bf16_to_float(const std::uint16_t* in, float* out, std::size_t count);

// Name of the instruction set that the kernels run with here: "AVX3_DL", "AVX2", "SSE4", ...
const char* simd_name();

}  // namespace tiercel::kernels
