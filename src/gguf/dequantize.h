// Tensor elements as float32.
#pragma once

#include <cstddef>
#include <span>

#include "gguf/gguf_file.h"

namespace tiercel {

float half_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float value);  // round to nearest even
float bf16_to_float(std::uint16_t bits);
std::uint16_t float_to_bf16(float value);  // round to nearest even

// Writes `out.size()` elements starting at the beginning of `data`. out.size() is a multiple of block_elements(type),
// and data holds at least that many. Exact: the value that the format defines, in float32.
void dequantize(TensorType type, std::span<const std::byte> data, std::span<float> out);

}  // namespace tiercel
