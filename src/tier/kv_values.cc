#include "tier/kv_values.h"

#include <bit>
#include <cassert>
#include <cstring>

#include "base/vector_clones.h"

namespace tiercel {
namespace {

constexpr std::uint32_t kSign = 0x80000000, kMagnitude = 0x7fffffff;
constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr std::uint32_t kLargestLoaded = 0x7e800000;           // 2^126
constexpr std::uint32_t kLargestBF16 = 0x7f7f0000;             // its largest finite value
constexpr std::uint32_t kLargestF16 = 0x477fe000;              // 65504
constexpr std::uint32_t kSmallestNormalF16 = 0x38800000;       // 2^-14
constexpr std::uint32_t kExponentOffset = (127u - 15u) << 23;  // f32's bias over f16's

template <class Word>
inline Word load(const std::byte* from) {
  Word word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Comparisons of bits instead of floats: whether the processor flushes denormals makes no difference.
inline float finite(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & kMagnitude;
  const std::uint32_t bounded = magnitude < kLargestLoaded ? magnitude : kLargestLoaded;
  return std::bit_cast<float>((bits & kSign) | (magnitude < kInfinity ? bounded : 0u));
}

inline std::uint32_t bounded(std::uint32_t magnitude, std::uint32_t largest) {
  return magnitude < largest ? magnitude : largest;
}

// Either of two values computed already, by mask: of a choice between them GCC 12 makes a branch, and no vector code.
inline std::uint32_t either(bool condition, std::uint32_t left, std::uint32_t right) {
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
  return (left & mask) | (right & ~mask);
}

// After F. Giesen, "half_to_float_fast5", 2012 (public domain), without its branches. NaN and infinity become 0.
inline float from_f16(std::uint32_t half) {
  const std::uint32_t magnitude = (half & 0x7fffu) << 13;
  const float denormal =
      std::bit_cast<float>(kSmallestNormalF16 | magnitude) - std::bit_cast<float>(kSmallestNormalF16);
  const std::uint32_t exponent = half & 0x7c00u;
  const std::uint32_t value =
      either(exponent == 0, std::bit_cast<std::uint32_t>(denormal), magnitude + kExponentOffset);
  return std::bit_cast<float>((half & 0x8000u) << 16 | either(exponent == 0x7c00u, 0, value));
}

// After M. Dukhan, FP16 (github.com/Maratyszcza/FP16), fp16_ieee_from_fp32_value: adding a power of two that is 2^13
// times as large as the last bit to keep rounds to it, for normal and denormal results alike. NaN and infinity become
// NaN.
inline std::uint16_t to_f16(std::uint32_t bits) {
  const std::uint32_t magnitude = bounded(bits & kMagnitude, kLargestF16);
  const std::uint32_t exponent = magnitude & kInfinity;
  const std::uint32_t bias = exponent < kSmallestNormalF16 ? kSmallestNormalF16 : exponent;
  const auto sum =
      std::bit_cast<std::uint32_t>(4 * std::bit_cast<float>(magnitude) + std::bit_cast<float>(bias + (15u << 23)));
  const std::uint32_t value = (sum >> 13 & 0x7c00u) + (sum & 0xfffu);
  return static_cast<std::uint16_t>((bits & kSign) >> 16 | value);
}

inline std::uint16_t to_bf16(std::uint32_t bits) {
  const std::uint32_t magnitude = bounded(bits & kMagnitude, kLargestBF16);
  const std::uint32_t value = (magnitude + 0x7fffu + (magnitude >> 16 & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & kSign) >> 16 | value);
}

TIERCEL_VECTOR_CLONES void load_f32(const std::byte* __restrict values, std::size_t count, float* __restrict floats) {
  for (std::size_t i = 0; i < count; ++i) floats[i] = finite(load<std::uint32_t>(values + 4 * i));
}

TIERCEL_VECTOR_CLONES void load_f16(const std::byte* __restrict values, std::size_t count, float* __restrict floats) {
  for (std::size_t i = 0; i < count; ++i) floats[i] = from_f16(load<std::uint16_t>(values + 2 * i));
}

TIERCEL_VECTOR_CLONES void load_bf16(const std::byte* __restrict values, std::size_t count, float* __restrict floats) {
  for (std::size_t i = 0; i < count; ++i) floats[i] = finite(std::uint32_t{load<std::uint16_t>(values + 2 * i)} << 16);
}

TIERCEL_VECTOR_CLONES void store_f16(const float* __restrict floats, std::size_t count, std::byte* __restrict values) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t value = to_f16(std::bit_cast<std::uint32_t>(floats[i]));
    std::memcpy(values + 2 * i, &value, sizeof(value));
  }
}

TIERCEL_VECTOR_CLONES void store_bf16(const float* __restrict floats, std::size_t count, std::byte* __restrict values) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t value = to_bf16(std::bit_cast<std::uint32_t>(floats[i]));
    std::memcpy(values + 2 * i, &value, sizeof(value));
  }
}

}  // namespace

void load_finite(std::span<const std::byte> values, DType dtype, float* floats) {
  switch (dtype) {
    case DType::F32: return load_f32(values.data(), values.size() / 4, floats);
    case DType::F16: return load_f16(values.data(), values.size() / 2, floats);
    case DType::BF16: return load_bf16(values.data(), values.size() / 2, floats);
    case DType::Int8: assert(!"codes have scales elsewhere"); return;
  }
}

void store_values(const float* floats, DType dtype, std::span<std::byte> values) {
  switch (dtype) {
    case DType::F32: std::memcpy(values.data(), floats, values.size()); return;
    case DType::F16: return store_f16(floats, values.size() / 2, values.data());
    case DType::BF16: return store_bf16(floats, values.size() / 2, values.data());
    case DType::Int8: assert(!"codes have scales elsewhere"); return;
  }
}

}  // namespace tiercel
