// The values of a block as f32 and back, for codecs that compute with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tiercel/types.h"

namespace tiercel {

// Of elements that are values by themselves, so not Int8.

// f32 from `values`, `size_of(dtype)` bytes each. NaN and infinity become 0, and magnitudes beyond 2^126 become that,
// so that differences and multiples by 15 of these stay finite.
void load_finite(std::span<const std::byte> values, DType dtype, float* floats);

// Rounded to nearest, ties to even; what is beyond the largest value of f16 or bf16, or NaN, becomes that.
void store_values(const float* floats, DType dtype, std::span<std::byte> values);

}  // namespace tiercel
