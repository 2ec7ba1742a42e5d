#include "kernels/group_linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

using namespace kernels;

struct RandomWeights {
  RandomWeights(TensorType type, std::size_t outputs, std::size_t columns, std::mt19937& random) {
    const std::size_t blocks = outputs * columns / 32, size = block_bytes(type);
    std::vector<std::byte> file(blocks * size);
    for (auto& byte : file) byte = static_cast<std::byte>(random());
    std::uniform_real_distribution<float> scale(-0.1f, 0.1f);
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t halves = type == TensorType::Q4_1 ? 2 : 1;
      for (std::size_t h = 0; h < halves; ++h) {
        const std::uint16_t half = float_to_half(scale(random));
        std::memcpy(file.data() + b * size + 2 * h, &half, 2);
      }
    }
    exact.resize(outputs * columns);
    dequantize(type, file, exact);
    // Packed in two parts, on top of rubbish.
    const GroupFormat format = group_format(type);
    tiles.assign(group_weights_bytes(format, outputs, columns), std::byte{0xa5});
    const std::size_t half = tiles_of(outputs) / 2;
    pack_group_weights(type, file.data(), outputs, columns, half, tiles_of(outputs), tiles.data());
    pack_group_weights(type, file.data(), outputs, columns, 0, half, tiles.data());
    view = {format, tiles.data(), outputs, columns};
  }
  std::vector<std::byte> tiles;
  GroupWeights view;
  std::vector<float> exact;
};

float nearest_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

// One way to compute, with float32 rows.
struct Way {
  const char* name;
  bool rounds;
  void operator()(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, std::size_t first, std::size_t last) const {
    if (!rounds) return group_linear(w, x, x_stride, rows, y, y_stride, first, last);
    const std::size_t groups = w.columns / kGroupColumns;
    std::vector<std::uint16_t> values(rows * (w.columns + 2));
    std::vector<float> sums(rows * (groups + 1));
    round_rows(x, x_stride, rows, w.columns, values.data(), w.columns + 2, sums.data(), groups + 1);
    group_linear_bf16(w, {values.data(), w.columns + 2, sums.data(), groups + 1}, rows, y, y_stride, first, last);
  }
};

template <class Check>
void for_every_way(const Check& check) {
  for_every_target([&] { check(Way{"float32", false}); });
  if (has_bf16_products()) check(Way{"bf16", true});
}

class GroupLinear : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, GroupLinear, testing::Values(TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0),
                         [](const auto& type) { return std::string(to_string(type.param)); });

TEST_P(GroupLinear, AgreesWithADoubleReferenceForEveryRowCount) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const std::size_t outputs = 16 * 13 + 5, columns = 160, most_rows = 37, x_stride = columns + 3,
                    y_stride = outputs + 2;
  const RandomWeights weights(GetParam(), outputs, columns, random);
  std::vector<float> x(most_rows * x_stride);
  for (float& value : x) value = normal(random);
  for_every_way([&](const Way& way) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (std::size_t rows = 1; rows <= most_rows; rows += rows < 26 ? 1 : 11) {
      std::vector<float> y(rows * y_stride, 99.0f);
      way(weights.view, x.data(), x_stride, rows, y.data(), y_stride, 0, outputs);
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t o = 0; o < outputs; ++o) {
          double sum = 0, size = 0;
          for (std::size_t c = 0; c < columns; ++c) {
            const float value = x[r * x_stride + c];
            const double product = double{way.rounds ? nearest_bf16(value) : value} * weights.exact[o * columns + c];
            sum += product;
            size += std::abs(product);
          }
          // Scale and minimum of a group are applied to sums, whose terms may cancel.
          ASSERT_NEAR(y[r * y_stride + o], sum, (way.rounds ? 4e-6 : 1e-6) * size)
              << rows << " rows, row " << r << ", output " << o;
        }
        ASSERT_EQ(y[r * y_stride + outputs], 99.0f) << "wrote beyond the row";
      }
    }
  });
}

TEST_P(GroupLinear, ARowHasTheSameBitsInEveryBatchAndSplit) {
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  const std::size_t outputs = 16 * 28 + 9, columns = 576;
  const RandomWeights weights(GetParam(), outputs, columns, random);
  for_every_way([&](const Way& way) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (const std::size_t rows : {2u, 7u, 12u, 13u, 33u}) {
      std::vector<float> x(rows * columns);
      for (float& value : x) value = normal(random);
      std::vector<float> whole(rows * outputs), alone(rows * outputs), split(rows * outputs);
      way(weights.view, x.data(), columns, rows, whole.data(), outputs, 0, outputs);
      for (std::size_t r = 0; r < rows; ++r) {
        way(weights.view, x.data() + r * columns, columns, 1, alone.data() + r * outputs, outputs, 0, outputs);
      }
      for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{0, 16}, {16, 48}, {48, outputs}}) {
        way(weights.view, x.data(), columns, rows, split.data(), outputs, first, last);
      }
      EXPECT_EQ(std::memcmp(whole.data(), alone.data(), whole.size() * sizeof(float)), 0) << rows << " rows";
      EXPECT_EQ(std::memcmp(whole.data(), split.data(), whole.size() * sizeof(float)), 0) << rows << " rows";
    }
  });
}

TEST_P(GroupLinear, OneColumnAloneGivesTheWeightItself) {
  std::mt19937 random(9);
  const std::size_t outputs = 24, columns = 96;
  const RandomWeights weights(GetParam(), outputs, columns, random);
  for_every_way([&](const Way& way) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (std::size_t c = 0; c < columns; ++c) {
      std::vector<float> x(columns, 0.0f), y(outputs);
      x[c] = 1;
      way(weights.view, x.data(), columns, 1, y.data(), outputs, 0, outputs);
      for (std::size_t o = 0; o < outputs; ++o) {
        const float exact = weights.exact[o * columns + c];
        ASSERT_NEAR(y[o], exact, 1e-6 * (std::abs(exact) + 1)) << "column " << c << ", output " << o;
      }
    }
  });
}

TEST(Bf16Rows, RoundToNearestEvenAndSumTheRounded) {
  if (!has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  std::mt19937 random(10);
  std::normal_distribution<float> normal;
  std::vector<float> x(3 * 64);
  for (float& value : x) value = normal(random);
  x[5] = 1.00390625f;  // half way between two bf16: to the even one
  x[6] = 1.01171875f;
  std::vector<std::uint16_t> values(3 * 64);
  std::vector<float> sums(3 * 2);
  round_rows(x.data(), 64, 3, 64, values.data(), 64, sums.data(), 2);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(values[i], float_to_bf16(x[i])) << i;
  for (std::size_t g = 0; g < sums.size(); ++g) {
    double sum = 0;
    for (std::size_t i = 0; i < 32; ++i) sum += nearest_bf16(x[g * 32 + i]);
    EXPECT_NEAR(sums[g], sum, 1e-5);
  }
}

}  // namespace
}  // namespace tiercel
