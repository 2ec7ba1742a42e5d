#include "gguf/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "tests/gguf/dequantize_data.h"

namespace tiercel {
namespace {

// What a half is, by the definition in IEEE 754.
float half_by_definition(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(Half, EveryHalfIsWhatItsDefinitionSaysAndComesBack) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    const float expected = half_by_definition(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_EQ(float_to_half(value), half | 0x200) << bits;  // payload and sign stay; it is quiet afterwards
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected)) << bits;
      ASSERT_EQ(float_to_half(value), half) << bits;
    }
  }
}

// Around every pair of neighbouring halves: just below the middle, the middle, just above it.
TEST(Half, RoundsToTheNearestAndTiesToEven) {
  for (std::uint16_t half = 0; half < 0x7c00; ++half) {
    const double low = half_by_definition(half);
    // Beyond the largest half its successor would be 65536, and that is infinity.
    const double high = half == 0x7bff ? 65536.0 : half_by_definition(static_cast<std::uint16_t>(half + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    const std::uint16_t next = half + 1;
    const std::uint16_t even = half % 2 == 0 ? half : next;
    ASSERT_EQ(float_to_half(middle), even) << half;
    ASSERT_EQ(float_to_half(-middle), even | 0x8000) << half;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), half) << half;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), next) << half;
  }
  EXPECT_EQ(float_to_half(1e30f), 0x7c00);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(Bf16, EveryBf16ComesBackAndIsTheUpperHalfOfAFloat) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_float(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(value), bits << 16);
    ASSERT_EQ(float_to_bf16(value), std::isnan(value) ? bits | 0x40 : bits);
  }
}

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  const auto from = [](std::uint32_t bits) { return float_to_bf16(std::bit_cast<float>(bits)); };
  EXPECT_EQ(from(0x3f807fff), 0x3f80);
  EXPECT_EQ(from(0x3f808000), 0x3f80);
  EXPECT_EQ(from(0x3f808001), 0x3f81);
  EXPECT_EQ(from(0x3f818000), 0x3f82);
  EXPECT_EQ(from(0xbf818000), 0xbf82);
  EXPECT_EQ(from(0x7f7fffff), 0x7f80);  // beyond the largest
  EXPECT_EQ(from(0x7f800001), 0x7fc0);  // a NaN whose payload is cut off is still none of the infinities
  EXPECT_EQ(from(0x00008001), 0x0001);
}

struct Golden {
  TensorType type;
  std::span<const std::uint8_t> bytes;
  std::span<const std::uint32_t> values;
};

std::string name_of(const testing::TestParamInfo<Golden>& info) { return std::string(to_string(info.param.type)); }

class Dequantize : public testing::TestWithParam<Golden> {};

TEST_P(Dequantize, GivesWhatTheGgufPackageGives) {
  const auto& [type, bytes, expected] = GetParam();
  ASSERT_EQ(bytes.size() / block_bytes(type) * block_elements(type), expected.size());
  std::vector<float> values(expected.size());
  dequantize(type, std::as_bytes(bytes), values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(values[i]), expected[i]) << "element " << i << ": " << values[i];
  }
}

TEST_P(Dequantize, ReadsFromAnyAddressAndWritesNoMoreThanAskedFor) {
  const auto& [type, bytes, expected] = GetParam();
  for (std::size_t shift = 1; shift < 4; ++shift) {
    std::vector<std::uint8_t> moved(bytes.size() + shift);
    std::copy(bytes.begin(), bytes.end(), moved.begin() + static_cast<std::ptrdiff_t>(shift));
    for (std::size_t blocks = 0; blocks * block_elements(type) < expected.size(); ++blocks) {
      const std::size_t size = blocks * block_elements(type);
      std::vector<float> values(expected.size(), 4711.0f);
      dequantize(type, std::as_bytes(std::span(moved)).subspan(shift), std::span(values).first(size));
      for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]),
                  i < size ? expected[i] : std::bit_cast<std::uint32_t>(4711.0f))
            << i;
      }
    }
  }
}

using namespace dequantize_data;
INSTANTIATE_TEST_SUITE_P(Types, Dequantize,
                         testing::Values(Golden{TensorType::F16, kF16Bytes, kF16Values},
                                         Golden{TensorType::BF16, kBF16Bytes, kBF16Values},
                                         Golden{TensorType::Q8_0, kQ8_0Bytes, kQ8_0Values},
                                         Golden{TensorType::Q4_0, kQ4_0Bytes, kQ4_0Values},
                                         Golden{TensorType::Q4_1, kQ4_1Bytes, kQ4_1Values}),
                         name_of);

TEST(DequantizeF32, CopiesBitsFromAnyAddress) {
  std::vector<float> values(9);
  std::mt19937 random(1);
  std::string bytes;
  for (int i = 0; i < 37; ++i) bytes += static_cast<char>(random());
  dequantize(TensorType::F32, std::as_bytes(std::span(bytes)).subspan(1), values);
  EXPECT_EQ(std::memcmp(values.data(), bytes.data() + 1, 36), 0);
}

}  // namespace
}  // namespace tiercel
