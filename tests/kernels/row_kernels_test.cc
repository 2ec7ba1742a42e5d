// RMSNorm, SwiGLU and RoPE against double references, at widths that leave remainders in every vector length.
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

std::vector<float> normals(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(RmsNorm, AddsTheResidualAndNormalisesEachRow) {
  for_every_target([] {
    for (const std::size_t width : {1u, 5u, 16u, 33u, 576u}) {
      const std::size_t rows = 3;
      const auto x = normals(rows * width, 1), residual = normals(rows * width, 2), weight = normals(width, 3);
      auto sum = x;
      std::vector<float> out(rows * width);
      kernels::rms_norm(sum.data(), residual.data(), weight.data(), 1e-5f, rows, width, out.data());
      for (std::size_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (std::size_t i = 0; i < width; ++i) {
          const std::size_t at = r * width + i;
          ASSERT_EQ(sum[at], x[at] + residual[at]);
          squares += double{sum[at]} * sum[at];
        }
        const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
        for (std::size_t i = 0; i < width; ++i) {
          const double expected = sum[r * width + i] * scale * weight[i];
          ASSERT_NEAR(out[r * width + i], expected, std::abs(expected) * 1e-5 + 1e-7) << "width " << width;
        }
      }
    }
  });
}

TEST(RmsNorm, WithoutResidualLeavesXAlone) {
  const auto x = normals(40, 4), weight = normals(40, 5);
  for_every_target([&] {
    auto same = x;
    std::vector<float> out(40);
    kernels::rms_norm(same.data(), nullptr, weight.data(), 1e-5f, 1, 40, out.data());
    EXPECT_EQ(same, x);
  });
}

TEST(Swiglu, GatesEachRowByItsOwnHalf) {
  for_every_target([] {
    for (const std::size_t width : {1u, 7u, 16u, 35u}) {
      const std::size_t rows = 2;
      auto gate_up = normals(rows * 2 * width, 6);
      gate_up[0] = 200.0f;           // exp() of its negative underflows
      gate_up[2 * width] = -200.0f;  // and here overflows
      const std::size_t stride = width + 2;
      std::vector<float> out(rows * stride, 99.0f);
      kernels::swiglu(gate_up.data(), rows, width, out.data(), stride);
      for (std::size_t i = 0; i < rows * stride; ++i) {
        ASSERT_EQ(out[i] == 99.0f, i % stride >= width) << "width " << width << ", " << i;
      }
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t i = 0; i < width; ++i) {
          const double gate = gate_up[r * 2 * width + i], up = gate_up[r * 2 * width + width + i];
          const double expected = gate / (1 + std::exp(-gate)) * up;
          ASSERT_NEAR(out[r * stride + i], expected, std::abs(expected) * 1e-5 + 1e-7) << "width " << width;
        }
      }
    }
  });
}

TEST(Rope, RotatesEveryPairOfEveryHead) {
  for_every_target([] {
    for (const std::size_t pairs : {1u, 2u, 5u, 8u, 16u, 21u, 32u}) {
      const std::size_t heads = 3, dim = 2 * pairs + 3;
      const auto x = normals(heads * dim, 7), angles = normals(2 * pairs, 8);
      auto turned = x;
      kernels::rope(turned.data(), heads, dim, angles.data(), pairs);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t at = i % dim, even = at / 2 * 2, first = i - at + even;
        double expected = x[i];
        if (at < 2 * pairs) {
          const double c = angles[even], s = angles[even + 1];
          expected = at % 2 == 0 ? x[first] * c - x[first + 1] * s : x[first] * s + x[first + 1] * c;
        }
        ASSERT_NEAR(turned[i], expected, 1e-5) << pairs << " pairs, element " << i;
      }
    }
  });
}

TEST(Rope, RotatesPairsByTheirAngleAndKeepsTheRest) {
  const double frequencies[] = {1.0, 0.01};
  float angles[4];
  kernels::rope_angles(frequencies, 2, 100000, angles);
  EXPECT_NEAR(angles[0], std::cos(100000.0), 1e-6);
  EXPECT_NEAR(angles[3], std::sin(1000.0), 1e-6);
  // Two heads of 6, of which 4 are rotated.
  float heads[12] = {1, 0, 0, 1, 7, 8, 1, 2, 3, 4, 9, 10};
  kernels::rope(heads, 2, 6, angles, 2);
  EXPECT_NEAR(heads[0], angles[0], 1e-6);
  EXPECT_NEAR(heads[1], angles[1], 1e-6);
  EXPECT_NEAR(heads[2], -angles[3], 1e-6);
  EXPECT_NEAR(heads[3], angles[2], 1e-6);
  EXPECT_EQ(heads[4], 7);
  EXPECT_EQ(heads[11], 10);
  EXPECT_NEAR(heads[6] * heads[6] + heads[7] * heads[7], 5, 1e-5);
}

}  // namespace
}  // namespace tiercel
