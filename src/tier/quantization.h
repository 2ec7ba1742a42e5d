// Values as small integers: a group shares a scale, and with 4 bits also a minimum (linear quantization as in
// llama.cpp's Q8_0 and Q4_1, with bf16 scales, which cannot overflow).
//
// No value is further than half a scale from what comes back, before that is rounded to the element type. Scales are
// rounded up and minimums down, so that the rounding of these makes no group's ends stick out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tiercel {

inline constexpr std::size_t kInt8Group = 64;
inline constexpr std::size_t kInt4Group = 32;

// A group whose scale would be less becomes that of scale 0: all values the same.
inline constexpr float kLeastScale = 0x1p-100f;

// `codes` gets a byte per value, the integer plus 128; `scales` one bf16 per group. Input is load_finite()'s.
void quantize_int8(const float* values, std::size_t groups, std::uint8_t* codes, std::uint16_t* scales);
void dequantize_int8(const std::uint8_t* codes, const std::uint16_t* scales, std::size_t groups, float* values);

// `codes` gets 16 bytes per group: value i in the low half of byte i, value 16 + i in the high half.
void quantize_int4(const float* values, std::size_t groups, std::uint8_t* codes, std::uint16_t* scales,
                   std::uint16_t* minimums);
void dequantize_int4(const std::uint8_t* codes, const std::uint16_t* scales, const std::uint16_t* minimums,
                     std::size_t groups, float* values);

}  // namespace tiercel
