#include "tier/quantization.h"

#include <bit>

#include "base/vector_clones.h"

namespace tiercel {
namespace {

// Adding and subtracting it rounds to an integer, ties to even, without SSE4.1: 1.5 * 2^23.
constexpr float kRound = 12582912.0f;

inline float from_bf16(std::uint16_t value) { return std::bit_cast<float>(std::uint32_t{value} << 16); }

// The least bf16 that is not less; `value` is finite and not negative.
inline std::uint16_t bf16_not_below(float value) {
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + 0xffffu) >> 16);
}

// The greatest bf16 that is not greater.
inline std::uint16_t bf16_not_above(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + (bits >> 31) * 0xffffu) >> 16);
}

inline float magnitude(float value) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0x7fffffffu); }

// Not std::min and std::max: these return references, which GCC 12 does not vectorise everywhere.
inline float least(float a, float b) { return a < b ? a : b; }
inline float greatest(float a, float b) { return a > b ? a : b; }

}  // namespace

// The extremes of a group are taken lane by lane: floats do not add up in any order, so a compiler keeps one order, but
// with 16 independent ones it needs no other.
constexpr std::size_t kLanes = 16;

TIERCEL_VECTOR_CLONES void quantize_int8(const float* __restrict values, std::size_t groups,
                                         std::uint8_t* __restrict codes, std::uint16_t* __restrict scales) {
  for (std::size_t group = 0; group < groups; ++group, values += kInt8Group, codes += kInt8Group) {
    float most[kLanes] = {};
    for (std::size_t i = 0; i < kInt8Group; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) most[lane] = greatest(most[lane], magnitude(values[i + lane]));
    }
    float extreme = 0;
    for (const float candidate : most) extreme = greatest(extreme, candidate);
    const float exact = extreme / 127;
    scales[group] = exact < kLeastScale ? std::uint16_t{0} : bf16_not_below(exact);
    const float inverse = exact < kLeastScale ? 0 : 1 / from_bf16(scales[group]);
    for (std::size_t i = 0; i < kInt8Group; ++i) {
      const float rounded = values[i] * inverse + kRound;
      codes[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(rounded) + 128u);
    }
  }
}

TIERCEL_VECTOR_CLONES void dequantize_int8(const std::uint8_t* __restrict codes, const std::uint16_t* __restrict scales,
                                           std::size_t groups, float* __restrict values) {
  for (std::size_t group = 0; group < groups; ++group, values += kInt8Group, codes += kInt8Group) {
    const float scale = from_bf16(scales[group]);
    for (std::size_t i = 0; i < kInt8Group; ++i) values[i] = static_cast<float>(int{codes[i]} - 128) * scale;
  }
}

TIERCEL_VECTOR_CLONES void quantize_int4(const float* __restrict values, std::size_t groups,
                                         std::uint8_t* __restrict codes, std::uint16_t* __restrict scales,
                                         std::uint16_t* __restrict minimums) {
  constexpr std::size_t kHalf = kInt4Group / 2;
  for (std::size_t group = 0; group < groups; ++group, values += kInt4Group, codes += kHalf) {
    float low[kHalf], high[kHalf];
    for (std::size_t i = 0; i < kHalf; ++i) {
      low[i] = least(values[i], values[kHalf + i]);
      high[i] = greatest(values[i], values[kHalf + i]);
    }
    float lowest = low[0], highest = high[0];
    for (std::size_t i = 1; i < kHalf; ++i) {
      lowest = least(lowest, low[i]);
      highest = greatest(highest, high[i]);
    }
    minimums[group] = bf16_not_above(lowest);
    const float minimum = from_bf16(minimums[group]);
    const float exact = (highest - minimum) / 15;
    scales[group] = exact < kLeastScale ? std::uint16_t{0} : bf16_not_below(exact);
    const float inverse = exact < kLeastScale ? 0 : 1 / from_bf16(scales[group]);
    for (std::size_t i = 0; i < kHalf; ++i) {
      const auto first = std::bit_cast<std::uint32_t>((values[i] - minimum) * inverse + kRound);
      const auto second = std::bit_cast<std::uint32_t>((values[kHalf + i] - minimum) * inverse + kRound);
      codes[i] = static_cast<std::uint8_t>((first & 15u) | (second & 15u) << 4);
    }
  }
}

TIERCEL_VECTOR_CLONES void dequantize_int4(const std::uint8_t* __restrict codes, const std::uint16_t* __restrict scales,
                                           const std::uint16_t* __restrict minimums, std::size_t groups,
                                           float* __restrict values) {
  constexpr std::size_t kHalf = kInt4Group / 2;
  for (std::size_t group = 0; group < groups; ++group, values += kInt4Group, codes += kHalf) {
    const float scale = from_bf16(scales[group]), minimum = from_bf16(minimums[group]);
    for (std::size_t i = 0; i < kHalf; ++i) {
      values[i] = static_cast<float>(int{codes[i]} & 15) * scale + minimum;
      values[kHalf + i] = static_cast<float>(int{codes[i]} >> 4) * scale + minimum;
    }
  }
}

}  // namespace tiercel
