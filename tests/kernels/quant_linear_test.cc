#include "kernels/quant_linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

using kernels::QuantMatrix;
using kernels::Rounding;

struct RandomMatrix {
  RandomMatrix(TensorType type, std::size_t outputs, std::size_t columns, std::mt19937& random) {
    const std::size_t blocks = outputs * columns / 32, size = block_bytes(type);
    bytes.resize(blocks * size);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    std::uniform_real_distribution<float> scale(-0.1f, 0.1f);
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t halves = type == TensorType::Q4_1 ? 2 : 1;
      for (std::size_t h = 0; h < halves; ++h) {
        const std::uint16_t half = float_to_half(scale(random));
        std::memcpy(bytes.data() + b * size + 2 * h, &half, 2);
      }
    }
    view = {type, bytes.data(), outputs, columns};
    exact.resize(outputs * columns);
    dequantize(type, bytes, exact);
  }
  std::vector<std::byte> bytes;
  QuantMatrix view;
  std::vector<float> exact;
};

float nearest_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

class QuantLinear : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, QuantLinear, testing::Values(TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0),
                         [](const auto& type) { return std::string(to_string(type.param)); });

TEST_P(QuantLinear, AgreesWithADoubleReferenceForEveryRowCount) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const std::size_t outputs = 21, columns = 160, most_rows = 37, x_stride = columns + 3, y_stride = outputs + 2;
  const RandomMatrix matrix(GetParam(), outputs, columns, random);
  std::vector<float> x(most_rows * x_stride);
  for (float& value : x) value = normal(random);
  for_every_target([&] {
    for (const std::size_t rows : {1, 2, 3, 4, 7, 8, 15, 16, 17, 37}) {
      std::vector<float> y(rows * y_stride, 99.0f);
      quant_linear(matrix.view, Rounding::None, x.data(), x_stride, rows, y.data(), y_stride, 0, outputs);
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t o = 0; o < outputs; ++o) {
          double sum = 0, size = 0;
          for (std::size_t c = 0; c < columns; ++c) {
            const double product = double{x[r * x_stride + c]} * matrix.exact[o * columns + c];
            sum += product;
            size += std::abs(product);
          }
          ASSERT_NEAR(y[r * y_stride + o], sum, 1e-6 * size) << rows << " rows, row " << r << ", output " << o;
        }
        ASSERT_EQ(y[r * y_stride + outputs], 99.0f) << "wrote beyond the row";
      }
    }
  });
}

TEST_P(QuantLinear, ARowHasTheSameBitsInEveryBatchAndSplit) {
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  const std::size_t outputs = 24, columns = 576, rows = 33;
  const RandomMatrix matrix(GetParam(), outputs, columns, random);
  std::vector<float> x(rows * columns);
  for (float& value : x) value = normal(random);
  for_every_target([&] {
    for (const Rounding rounding : {Rounding::None, Rounding::Bf16}) {
      std::vector<float> whole(rows * outputs), alone(rows * outputs), split(rows * outputs);
      quant_linear(matrix.view, rounding, x.data(), columns, rows, whole.data(), outputs, 0, outputs);
      for (std::size_t r = 0; r < rows; ++r) {
        quant_linear(matrix.view, rounding, x.data() + r * columns, columns, 1, alone.data() + r * outputs, outputs, 0,
                     outputs);
      }
      for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{0, 5}, {5, 6}, {6, 24}}) {
        quant_linear(matrix.view, rounding, x.data(), columns, rows, split.data(), outputs, first, last);
      }
      EXPECT_EQ(std::memcmp(whole.data(), alone.data(), whole.size() * sizeof(float)), 0);
      EXPECT_EQ(std::memcmp(whole.data(), split.data(), whole.size() * sizeof(float)), 0);
    }
  });
}

TEST_P(QuantLinear, RoundsWeightsToTheNearestBf16AndResultsToo) {
  std::mt19937 random(9);
  const std::size_t outputs = 8, columns = 96;
  const RandomMatrix matrix(GetParam(), outputs, columns, random);
  for_every_target([&] {
    std::vector<float> row(columns), y(outputs), x(columns, 0.0f);
    for (std::size_t o = 0; o < outputs; ++o) {
      dequantize_row(matrix.view, Rounding::None, o, row.data());
      for (std::size_t c = 0; c < columns; ++c) {
        ASSERT_NEAR(row[c], matrix.exact[o * columns + c], 1e-6 * std::abs(row[c]) + 1e-7);
      }
      dequantize_row(matrix.view, Rounding::Bf16, o, row.data());
      for (std::size_t c = 0; c < columns; ++c) {
        ASSERT_EQ(row[c], nearest_bf16(row[c])) << "not a bf16 value";
        ASSERT_NEAR(row[c], matrix.exact[o * columns + c], std::abs(row[c]) / 256 + 1e-7);
      }
      // One weight alone: the product must be that very value.
      x.assign(columns, 0.0f);
      x[o * 7 % columns] = 1.0f;
      quant_linear(matrix.view, Rounding::Bf16, x.data(), columns, 1, y.data(), outputs, 0, outputs);
      ASSERT_EQ(y[o], row[o * 7 % columns]);
    }
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& value : x) value = uniform(random);
    quant_linear(matrix.view, Rounding::Bf16, x.data(), columns, 1, y.data(), outputs, 0, outputs);
    for (const float value : y) ASSERT_EQ(value, nearest_bf16(value));
  });
}

}  // namespace
}  // namespace tiercel
