#include "kernels/bf16.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

TEST(Bf16, AgreesWithTheScalarConversionOnRandomAndOddValues) {
  std::mt19937 random(1);
  std::vector<float> values = {0.0f,    -0.0f,    1.0f,   1.00390625f, 1.01171875f,
                               3.3e38f, -3.3e38f, 1e-40f, INFINITY,    -INFINITY};
  for (int i = 0; i < 1000; ++i) {
    const std::uint32_t bits = random();
    float value;
    std::memcpy(&value, &bits, 4);
    if (!std::isnan(value)) values.push_back(value);
  }
  for_every_target([&] {
    std::vector<std::uint16_t> narrow(values.size());
    std::vector<float> wide(values.size());
    kernels::float_to_bf16(values.data(), narrow.data(), values.size());
    kernels::bf16_to_float(narrow.data(), wide.data(), narrow.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(narrow[i], float_to_bf16(values[i])) << values[i];
      const float exact = bf16_to_float(narrow[i]);
      EXPECT_EQ(std::memcmp(&wide[i], &exact, 4), 0) << values[i];
    }
  });
}

}  // namespace
}  // namespace tiercel
