// Half, bfloat16 and E4M3 of the emulated headers: every value, and the ties between them.
#include <cmath>
#include <cstring>
#include <random>

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"

namespace tiercel {
namespace {

TEST(CudaNarrowFloats, HalfAndBfloat16AsTheProjectRoundsThem) {
  std::mt19937 random(3);
  for (int i = 0; i < 2'000'000; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(random()) & (i % 2 == 0 ? 0xffffffffu : 0xfffff000u);
    float value;
    std::memcpy(&value, &bits, 4);
    if (std::isnan(value)) continue;
    ASSERT_EQ(__half_as_ushort(__float2half_rn(value)), float_to_half(value)) << value;
    ASSERT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(value)), float_to_bf16(value)) << value;
  }
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto narrow = static_cast<unsigned short>(bits);
    const float h = __half2float(__ushort_as_half(narrow)), b = __bfloat162float(__ushort_as_bfloat16(narrow));
    if (!std::isnan(h)) {
      ASSERT_EQ(h, half_to_float(narrow));
      ASSERT_EQ(__half_as_ushort(__float2half_rn(h)), narrow);
    }
    if (!std::isnan(b)) {
      ASSERT_EQ(b, bf16_to_float(narrow));
      ASSERT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(b)), narrow);
    }
  }
}

TEST(CudaNarrowFloats, E4M3RoundsToTheNearestOfItsValuesAndSaturates) {
  const auto to = [](float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); };
  const auto from = [](unsigned bits) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(bits), __NV_E4M3)));
  };
  EXPECT_EQ(from(0x7e), 448.0f);
  EXPECT_EQ(from(0x08), 0x1p-6f);
  EXPECT_EQ(from(0x01), 0x1p-9f);
  EXPECT_TRUE(std::isnan(from(0x7f)));
  for (unsigned i = 0; i < 0x7e; ++i) {
    const float low = from(i), high = from(i + 1), middle = (low + high) / 2;
    ASSERT_LT(low, high);
    ASSERT_EQ(to(low), i);
    ASSERT_EQ(to(-low), i | 0x80);
    ASSERT_EQ(to(std::nextafter(middle, 0.0f)), i);
    ASSERT_EQ(to(std::nextafter(middle, 1e9f)), i + 1);
    ASSERT_EQ(to(middle), i % 2 == 0 ? i : i + 1);
  }
  EXPECT_EQ(to(1e9f), 0x7e);
  EXPECT_EQ(to(-INFINITY), 0xfe);
}

TEST(CudaNarrowFloats, PairsAreSubtractedEachByItself) {
  const __half2 half = __hsub2(__floats2half2_rn(1031, 2), __floats2half2_rn(1024, 0x1p-11f));
  EXPECT_EQ(__half22float2(half).x, 7);
  EXPECT_EQ(__half22float2(half).y, 2);  // half way: to the even one
  const __nv_bfloat162 bfloat16 = __hsub2(__floats2bfloat162_rn(135, -3), __floats2bfloat162_rn(128, 0.5f));
  EXPECT_EQ(__bfloat1622float2(bfloat16).x, 7);
  EXPECT_EQ(__bfloat1622float2(bfloat16).y, -3.5f);
}

TEST(CudaIntegers, BytesArePickedFromTwoRegisters) {
  EXPECT_EQ(__byte_perm(0x44332211u, 0x88776655u, 0x3210), 0x44332211u);
  EXPECT_EQ(__byte_perm(0x44332211u, 0x88776655u, 0x7654), 0x88776655u);
  EXPECT_EQ(__byte_perm(0x44332211u, 0, 0x4342), 0x00440033u);
  EXPECT_EQ(__byte_perm(0x44332211u, 0x88776655u, 0x0716), 0x11882277u);
}

}  // namespace
}  // namespace tiercel
