#include "gguf/dequantize.h"

#include <bit>
#include <cassert>
#include <cstdint>
#include <cstring>

namespace tiercel {
namespace {

constexpr std::size_t kBlock = 32;  // elements of Q4_0, Q4_1 and Q8_0

std::uint16_t load_u16(const std::byte* bytes) {
  std::uint16_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Free of branches, so that loops over it become vector code without any half-precision instruction. Subnormal halves
// go through a subtraction of normal floats: right even where the thread treats subnormals as zero.
inline float half_value(std::uint16_t bits) {
  const std::uint32_t magnitude = (bits & 0x7fffu) << 13;
  const std::uint32_t exponent = magnitude & 0x0f800000u;
  const std::uint32_t normal = magnitude + (112u << 23) + (exponent == 0x0f800000u ? 112u << 23 : 0u);
  const float subnormal = std::bit_cast<float>(magnitude + (113u << 23)) - 0x1p-14f;
  const std::uint32_t chosen = exponent == 0 ? std::bit_cast<std::uint32_t>(subnormal) : normal;
  return std::bit_cast<float>(chosen | (bits & 0x8000u) << 16);
}

inline float bf16_value(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

void dequantize_f16(const std::byte* data, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = half_value(load_u16(data + 2 * i));
}

void dequantize_bf16(const std::byte* data, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = bf16_value(load_u16(data + 2 * i));
}

// The products below are exact: 11 significant bits of the scale times at most 8 of the quant.

void dequantize_q8_0(const std::byte* data, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += kBlock, data += 34) {
    const float scale = half_value(load_u16(data));
    const auto* quants = reinterpret_cast<const signed char*>(data + 2);
    float* block = out.data() + i;
    for (std::size_t j = 0; j < kBlock; ++j) block[j] = static_cast<float>(quants[j]) * scale;
  }
}

void dequantize_q4_0(const std::byte* data, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += kBlock, data += 18) {
    const float scale = half_value(load_u16(data));
    const auto* quants = reinterpret_cast<const unsigned char*>(data + 2);
    float* block = out.data() + i;
    for (std::size_t j = 0; j < kBlock / 2; ++j) block[j] = static_cast<float>((quants[j] & 15) - 8) * scale;
    for (std::size_t j = 0; j < kBlock / 2; ++j)
      block[j + kBlock / 2] = static_cast<float>((quants[j] >> 4) - 8) * scale;
  }
}

void dequantize_q4_1(const std::byte* data, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += kBlock, data += 20) {
    const float scale = half_value(load_u16(data));
    const float minimum = half_value(load_u16(data + 2));
    const auto* quants = reinterpret_cast<const unsigned char*>(data + 4);
    float* block = out.data() + i;
    for (std::size_t j = 0; j < kBlock / 2; ++j) block[j] = static_cast<float>(quants[j] & 15) * scale + minimum;
    for (std::size_t j = 0; j < kBlock / 2; ++j)
      block[j + kBlock / 2] = static_cast<float>(quants[j] >> 4) * scale + minimum;
  }
}

}  // namespace

float half_to_float(std::uint16_t bits) { return half_value(bits); }

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);  // NaN, made quiet, with what fits of its payload
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and more are nearer to infinity than to 65504
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 the unit of a half is 2^-24, and that is the unit of a float from 0.5 on: let the addition round.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
  }
  return static_cast<std::uint16_t>(sign | half);
}

float bf16_to_float(std::uint16_t bits) { return bf16_value(bits); }

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void dequantize(TensorType type, std::span<const std::byte> data, std::span<float> out) {
  assert(out.size() % block_elements(type) == 0);
  assert(data.size() / block_bytes(type) >= out.size() / block_elements(type));
  switch (type) {
    case TensorType::F32:
      if (!out.empty()) std::memcpy(out.data(), data.data(), out.size_bytes());
      return;
    case TensorType::F16: return dequantize_f16(data.data(), out);
    case TensorType::BF16: return dequantize_bf16(data.data(), out);
    case TensorType::Q8_0: return dequantize_q8_0(data.data(), out);
    case TensorType::Q4_0: return dequantize_q4_0(data.data(), out);
    case TensorType::Q4_1: return dequantize_q4_1(data.data(), out);
  }
}

}  // namespace tiercel
