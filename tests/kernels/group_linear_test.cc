#include "kernels/group_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "kernels/int8_kernels.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/random_tensor.h"

namespace tiercel {
namespace {

using namespace kernels;

struct RandomWeights {
  RandomWeights(TensorType type, std::size_t outputs, std::size_t columns, std::mt19937& random) {
    const RandomTensor tensor(type, outputs, columns, random);
    exact = tensor.exact;
    // Packed in two parts, on top of rubbish.
    const GroupFormat format = group_format(type);
    tiles.assign(group_weights_bytes(format, outputs, columns), std::byte{0xa5});
    const std::size_t half = tiles_of(outputs) / 2;
    pack_group_weights(type, tensor.file.data(), outputs, columns, half, tiles_of(outputs), tiles.data());
    pack_group_weights(type, tensor.file.data(), outputs, columns, 0, half, tiles.data());
    view = {format, tiles.data(), outputs, columns};
  }
  std::vector<std::byte> tiles;
  GroupWeights view;
  std::vector<float> exact;
};

float nearest_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

enum class Rounding { None, Bf16, Int16, Int8, Decoded, DecodedInt16 };  // the last two: weights as well as rows

// One way to compute, with float32 rows.
struct Way {
  std::string name;
  Rounding rounding;
  const Int8Kernel* int8 = nullptr;  // where rounding is Int8
  bool paired = false;               // its rows

  bool rounds_to_bf16() const { return rounding == Rounding::Bf16 || rounding == Rounding::Decoded; }
  bool rounds_to_integers() const {
    return rounding == Rounding::Int16 || rounding == Rounding::DecodedInt16 || rounding == Rounding::Int8;
  }
  // Columns of a row that share a scale, and what their largest value becomes.
  std::size_t scaled_columns() const {
    return rounding == Rounding::DecodedInt16 ? kSpanGroups * kGroupColumns : kGroupColumns;
  }
  float largest_integer() const {
    if (rounding == Rounding::DecodedInt16) return 8191;
    return rounding == Rounding::Int16 ? 32767 : static_cast<float>(paired ? kPairedLargest : 127);
  }
  // How far a weight is from what it is multiplied as, at most: two terms are rounded, of which one is 15 times a
  // number that is rounded too (a byte: 127 times).
  float weight_error(float largest) const {
    return rounding == Rounding::DecodedInt16 ? 1.2f * largest / kLargestDecodedWeight : 0;
  }
  float weight(float exact) const { return rounding == Rounding::Decoded ? nearest_bf16(exact) : exact; }

  // A row as the kernel multiplies it.
  std::vector<float> rounded(const float* x, std::size_t columns) const {
    std::vector<float> row(x, x + columns);
    for (std::size_t c = 0; c < columns && rounds_to_bf16(); ++c) row[c] = nearest_bf16(row[c]);
    for (std::size_t c = 0; c < columns && rounds_to_integers(); c += scaled_columns()) {
      const std::size_t count = std::min(scaled_columns(), columns - c);
      float largest = 0;
      for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(row[c + i]));
      const float scale = largest / largest_integer();
      for (std::size_t i = 0; i < count && scale > 0; ++i) {
        row[c + i] = std::nearbyint(row[c + i] * (1 / scale)) * scale;
      }
    }
    return row;
  }

  void operator()(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, std::size_t first, std::size_t last) const {
    if (rounding == Rounding::None) return group_linear(w, x, x_stride, rows, y, y_stride, first, last);
    std::vector<float> dense;
    for (std::size_t r = 0; r < rows; ++r) dense.insert(dense.end(), x + r * x_stride, x + r * x_stride + w.columns);
    const std::size_t groups = rows * w.columns / kGroupColumns, middle = panels_of(rows) / 2;
    std::vector<float> scales(groups), sums(groups);
    std::vector<std::int32_t> offsets(groups), paired_offsets(groups);
    std::int32_t* const pairs = paired ? paired_offsets.data() : nullptr;
    std::vector<std::uint16_t> values(dense.size());
    std::vector<std::int16_t> words(dense.size());
    std::vector<std::int8_t> bytes(dense.size());
    // Rounded in two parts, as threads do.
    for (const auto& [begin, end] : {std::pair{std::size_t{0}, middle}, {middle, panels_of(rows)}}) {
      if (rounds_to_bf16()) {
        round_rows(dense.data(), rows, w.columns, begin, end, values.data(), sums.data());
      } else if (rounding == Rounding::DecodedInt16) {
        round_spans_int16(dense.data(), rows, w.columns, begin, end, words.data(), scales.data());
      } else if (rounding == Rounding::Int16) {
        round_rows_int16(dense.data(), rows, w.columns, begin, end, words.data(), scales.data(), sums.data());
      } else {
        int8->quantise(dense.data(), rows, w.columns, begin, end, bytes.data(), scales.data(), sums.data(),
                       offsets.data(), pairs);
      }
    }
    if (rounds_to_bf16()) {
      (rounding == Rounding::Bf16 ? group_linear_bf16 : group_linear_decoded)(w, {values.data(), sums.data()}, rows, y,
                                                                              y_stride, first, last);
    } else if (rounding == Rounding::DecodedInt16) {
      group_linear_decoded_int16(w, {words.data(), scales.data()}, rows, y, y_stride, first, last);
    } else if (rounding == Rounding::Int16) {
      group_linear_int16(w, {words.data(), scales.data(), sums.data()}, rows, y, y_stride, first, last);
    } else {
      int8->multiply(w, {bytes.data(), scales.data(), sums.data(), offsets.data(), pairs}, rows, y, y_stride, first,
                     last);
    }
  }
};

template <class Check>
void for_every_way(const Check& check) {
  for_every_target([&] { check(Way{"float32", Rounding::None}); });
  if (has_bf16_products()) check(Way{"bf16", Rounding::Bf16});
  if (has_bf16_products()) check(Way{"bf16 decoded", Rounding::Decoded});
  if (has_int16_products()) check(Way{"int16", Rounding::Int16});
  if (has_int16_products()) check(Way{"int16 decoded", Rounding::DecodedInt16});
  for (const Int8Kernel* int8 : int8_kernels()) {
    if (!int8->is_supported()) continue;
    check(Way{int8->name, Rounding::Int8, int8});
    check(Way{std::string(int8->name) + " paired", Rounding::Int8, int8, true});
  }
}

class GroupLinear : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, GroupLinear, testing::Values(TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0),
                         [](const auto& type) { return std::string(to_string(type.param)); });

TEST_P(GroupLinear, AgreesWithADoubleReferenceForEveryRowCount) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  // More columns than kernels take at once.
  const std::size_t outputs = 16 * 9 + 5, columns = 32 * 26, most_rows = 103, x_stride = columns + 3,
                    y_stride = outputs + 2;
  const RandomWeights weights(GetParam(), outputs, columns, random);
  std::vector<float> x(most_rows * x_stride);
  for (float& value : x) value = normal(random);
  for_every_way([&](const Way& way) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (std::size_t rows = 1; rows <= most_rows; rows += rows < 26 ? 1 : rows < 37 ? 11 : 66) {
      std::vector<float> y(rows * y_stride, 99.0f);
      way(weights.view, x.data(), x_stride, rows, y.data(), y_stride, 0, outputs);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::vector<float> row = way.rounded(x.data() + r * x_stride, columns);
        for (std::size_t o = 0; o < outputs; ++o) {
          double sum = 0, size = 0, squares = 0;
          float largest = 0;
          for (std::size_t c = 0; c < columns; ++c) {
            const float weight = weights.exact[o * columns + c];
            const double product = double{row[c]} * way.weight(weight);
            sum += product;
            size += std::abs(product);
            squares += double{row[c]} * row[c];
            largest = std::max(largest, std::abs(weight));
          }
          // Scale and minimum of a group are applied to sums, whose terms may cancel. What is rounded of weights has
          // either sign.
          ASSERT_NEAR(y[r * y_stride + o], sum,
                      (way.rounding == Rounding::None ? 1e-6 : 4e-6) * size +
                          2 * way.weight_error(largest) * std::sqrt(squares))
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
    for (const std::size_t rows : {2u, 7u, 12u, 13u, 33u, 101u}) {
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
  std::vector<float> largest(outputs);
  for (std::size_t i = 0; i < outputs * columns; ++i) {
    largest[i / columns] = std::max(largest[i / columns], std::abs(weights.exact[i]));
  }
  for_every_way([&](const Way& way) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (std::size_t c = 0; c < columns; ++c) {
      std::vector<float> x(columns, 0.0f), y(outputs);
      x[c] = 1;
      way(weights.view, x.data(), columns, 1, y.data(), outputs, 0, outputs);
      for (std::size_t o = 0; o < outputs; ++o) {
        const float exact = way.weight(weights.exact[o * columns + c]);
        ASSERT_NEAR(y[o], exact, 1e-6 * (std::abs(exact) + 1) + way.weight_error(largest[o]))
            << "column " << c << ", output " << o;
      }
    }
  });
}

TEST(GroupLinearSums, OfTheLargestHaveRoom) {
  const std::size_t outputs = 32, columns = 256;
  // Blocks of Q4_1, all alike: scale, minimum, and 32 nibbles of 15.
  std::vector<std::byte> file;
  for (std::size_t i = 0; i < outputs * columns / 32; ++i) {
    const std::uint16_t scale_and_minimum[] = {float_to_half(0.5f), float_to_half(1.25f)};
    const auto* bytes = reinterpret_cast<const std::byte*>(scale_and_minimum);
    file.insert(file.end(), bytes, bytes + 4);
    file.insert(file.end(), 16, std::byte{0xff});
  }
  std::vector<std::byte> tiles(group_weights_bytes(GroupFormat::Q4, outputs, columns));
  pack_group_weights(TensorType::Q4_1, file.data(), outputs, columns, 0, tiles_of(outputs), tiles.data());
  for_every_way([&](const Way& way) {
    for (const float value : {3.0f, -3.0f}) {
      const std::vector<float> x(columns, value);
      std::vector<float> y(outputs);
      way({GroupFormat::Q4, tiles.data(), outputs, columns}, x.data(), columns, 1, y.data(), outputs, 0, outputs);
      const float exact = value * 8.75f * columns;
      for (const float sum : y) ASSERT_NEAR(sum, exact, 1e-3 * std::abs(exact)) << way.name;
    }
  });
}

// A model's turbo mode gives the same answers on each processor.
TEST_P(GroupLinear, BytesHaveTheSameBitsOnEveryInstructionSet) {
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  const std::size_t outputs = 16 * 7 + 3, columns = 1600, rows = 101;
  const RandomWeights weights(GetParam(), outputs, columns, random);
  std::vector<float> x(rows * columns), firsts[2];
  for (float& value : x) value = normal(random);
  for_every_way([&](const Way& way) {
    if (way.rounding != Rounding::Int8) return;
    std::vector<float> y(rows * outputs), &first = firsts[way.paired];
    way(weights.view, x.data(), columns, rows, y.data(), outputs, 0, outputs);
    if (first.empty()) first = y;
    EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)), 0) << way.name;
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
  round_rows(x.data(), 3, 64, 0, 1, values.data(), sums.data());
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::size_t g = 0; g < 2; ++g) {
      double sum = 0;
      for (std::size_t i = 0; i < 32; ++i) {
        const float value = x[r * 64 + g * 32 + i];
        ASSERT_EQ(values[(g * 3 + r) * 32 + i], float_to_bf16(value)) << r << " " << g << " " << i;
        sum += nearest_bf16(value);
      }
      EXPECT_NEAR(sums[g * 3 + r], sum, 1e-5);
    }
  }
}

// Numbers of any size, and those that a scale has no inverse for.
constexpr float kSizes[] = {1, 1e-30f, 1e-37f, 1e-42f, 0, 1e30f, 3e38f};

TEST(Int16Rows, RoundToTheNearestIntegerOfTheirGroup) {
  if (!has_int16_products()) GTEST_SKIP() << "this processor has no AVX512-VNNI";
  std::mt19937 random(13);
  std::normal_distribution<float> normal;
  for (const float size : kSizes) {
    std::vector<float> x(32), scale(1), sum(1);
    for (float& value : x) value = std::clamp(normal(random), -1.0f, 1.0f) * size;
    std::vector<std::int16_t> values(32);
    round_rows_int16(x.data(), 1, 32, 0, 1, values.data(), scale.data(), sum.data());
    std::int32_t words = 0;
    for (std::size_t c = 0; c < 32; ++c) {
      EXPECT_NEAR(static_cast<float>(values[c]) * scale[0], x[c], std::max(0.51f * scale[0], 1e-33f)) << size;
      EXPECT_GE(values[c], -32767);
      words += values[c];
    }
    EXPECT_EQ(sum[0], scale[0] * static_cast<float>(words)) << size;
  }
}

TEST(Int8Rows, RoundToTheNearestByteOfTheirGroup) {
  if (!has_int8_products()) GTEST_SKIP() << "this processor multiplies no bytes";
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for_every_way([&](const Way& way) {
    if (way.rounding != Rounding::Int8) return;
    const testing::ScopedTrace trace(__FILE__, __LINE__, way.name);
    for (const float size : kSizes) {
      std::vector<float> x(32), scale(1), sum(1);
      for (float& value : x) value = std::clamp(normal(random), -1.0f, 1.0f) * size;
      std::vector<std::int8_t> values(32);
      std::vector<std::int32_t> offset(1), paired_offset(1);
      way.int8->quantise(x.data(), 1, 32, 0, 1, values.data(), scale.data(), sum.data(), offset.data(),
                         way.paired ? paired_offset.data() : nullptr);
      std::int32_t bytes = 0;
      for (std::size_t c = 0; c < 32; ++c) {
        const std::size_t half = c % 8 / 2 % 2;  // kColumnOrder
        const auto place = std::find(std::begin(kColumnOrder[half]), std::end(kColumnOrder[half]), c % 8);
        ASSERT_NE(place, std::end(kColumnOrder[half])) << c;
        const std::int8_t value = values[c / 8 * 8 + half * 4 + static_cast<std::size_t>(place - kColumnOrder[half])];
        EXPECT_NEAR(value * scale[0], x[c], std::max(0.501f * scale[0], 1e-35f)) << size << ", column " << c;
        EXPECT_LE(std::abs(value), way.paired ? kPairedLargest : 127);
        bytes += value;
      }
      EXPECT_EQ(offset[0], -128 * bytes);
      EXPECT_EQ(sum[0], scale[0] * static_cast<float>(bytes));
    }
  });
}

}  // namespace
}  // namespace tiercel
