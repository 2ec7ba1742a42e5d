// Half, bfloat16 and E4M3 (8 bits, no infinity) to and from float: to nearest, ties to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace cuemu {

inline float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline std::uint16_t bfloat16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN, as a device writes it
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest < 0x400u) return std::copysign(static_cast<float>(rest) * 0x1p-24f, std::bit_cast<float>(sign));
  return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
}

inline std::uint16_t half_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(value);
  if (!(magnitude == magnitude)) return 0x7fff;  // as a device writes it
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  // Below the least normal value the step is 2^-24: adding 0.5 makes it a float's own step there.
  if (magnitude < 0x1p-14f) {
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(magnitude + 0.5f) - std::bit_cast<std::uint32_t>(0.5f)));
  }
  const std::uint32_t rest = bits & 0x7fffffffu;
  return static_cast<std::uint16_t>(sign | ((rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u) >> 13));
}

inline float from_e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fffffffu);
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// Beyond the largest value, 448, it becomes that.
inline std::uint8_t e4m3_bits(float value) {
  if (!(value == value)) return 0x7f;
  const auto sign = static_cast<std::uint8_t>(std::signbit(value) ? 0x80 : 0);
  const float magnitude = std::fabs(value);
  if (magnitude >= 448.0f) return sign | 0x7e;
  if (magnitude < 0x1p-6f)
    return static_cast<std::uint8_t>(sign | static_cast<int>(std::nearbyint(magnitude * 512.0f)));
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  return static_cast<std::uint8_t>(sign | ((bits + 0x7ffffu + (bits >> 20 & 1u) - 0x3c000000u) >> 20));
}

}  // namespace cuemu
