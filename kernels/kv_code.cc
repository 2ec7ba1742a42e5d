#include "kernels/kv_code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tiercel::kernels {
namespace {

std::uint16_t bf16_not_above(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + (bits >> 31) * 0xffffu) >> 16);
}

// To nearest, ties to even, for magnitudes up to kLargestE4M3.
std::uint8_t to_e4m3(float value) {
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::min(std::fabs(value), kLargestE4M3);
  if (magnitude < 0x1p-6f) return sign | static_cast<std::uint8_t>(std::nearbyint(magnitude * 512.0f));
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  return sign | static_cast<std::uint8_t>((bits + 0x7ffffu + (bits >> 20 & 1u) - 0x3c000000u) >> 20);
}

float from_e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

void store(std::byte* at, std::size_t index, std::uint16_t value) { std::memcpy(at + 2 * index, &value, 2); }

std::uint16_t load(const std::byte* at, std::size_t index) {
  std::uint16_t value;
  std::memcpy(&value, at + 2 * index, 2);
  return value;
}

}  // namespace

void encode_row(KvCode code, const float* values, std::size_t head_dim, std::byte* codes, std::byte* scales) {
  if (code == KvCode::Int4) {
    const std::size_t half = head_dim / 2;
    for (std::size_t g = 0; g < 2; ++g, values += half, codes += half / 2) {
      const auto [lowest, highest] = std::minmax_element(values, values + half);
      const std::uint16_t minimum = bf16_not_above(*lowest),
                          scale = code_scale((*highest - code_scale_value(minimum)) / 15);
      store(scales, 2 * g, scale);
      store(scales, 2 * g + 1, minimum);
      const auto encode = [&](float value) {
        return static_cast<unsigned>(std::nearbyint((value - code_scale_value(minimum)) * inverse_code_scale(scale)));
      };
      for (std::size_t i = 0; i < half / 2; ++i)
        codes[i] = std::byte(encode(values[2 * i]) | encode(values[2 * i + 1]) << 4);
    }
    return;
  }
  float most = 0;
  for (std::size_t i = 0; i < head_dim; ++i) most = std::max(most, std::fabs(values[i]));
  const std::uint16_t scale = code == KvCode::Int8 ? int8_code_scale(most) : code_scale(most / kLargestE4M3);
  store(scales, 0, scale);
  for (std::size_t i = 0; i < head_dim; ++i) {
    const float scaled = values[i] * inverse_code_scale(scale);
    codes[i] = code == KvCode::Int8 ? std::byte(static_cast<std::uint8_t>(static_cast<int>(std::nearbyint(scaled))))
                                    : std::byte(to_e4m3(scaled));
  }
}

void decode_row(KvCode code, const std::byte* codes, const std::byte* scales, std::size_t head_dim, float* values) {
  for (std::size_t i = 0; i < head_dim; ++i) {
    if (code == KvCode::Int4) {
      const std::size_t group = i < head_dim / 2 ? 0 : 1;
      const unsigned nibble = static_cast<unsigned>(codes[i / 2]) >> (i % 2 * 4) & 15u;
      values[i] = static_cast<float>(nibble) * code_scale_value(load(scales, 2 * group)) +
                  code_scale_value(load(scales, 2 * group + 1));
      continue;
    }
    const auto byte = static_cast<std::uint8_t>(codes[i]);
    const float value = code == KvCode::Int8 ? static_cast<float>(static_cast<std::int8_t>(byte)) : from_e4m3(byte);
    values[i] = value * code_scale_value(load(scales, 0));
  }
}

}  // namespace tiercel::kernels
