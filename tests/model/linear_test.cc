#include "model/linear.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "kernels/swiglu.h"

namespace tiercel {
namespace {

struct RandomTensor {
  RandomTensor(TensorType type, std::size_t rows, std::size_t columns, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> small(-0.05f, 0.05f);
    const std::size_t blocks = rows * columns / block_elements(type), size = block_bytes(type);
    bytes.resize(blocks * size);
    for (std::size_t b = 0; b < blocks; ++b) {
      std::byte* block = bytes.data() + b * size;
      for (std::size_t i = 0; i < size; ++i) block[i] = static_cast<std::byte>(random());
      const float value = small(random);
      const std::uint16_t half = float_to_half(value), bf16 = float_to_bf16(value);
      switch (type) {
        case TensorType::F32: std::memcpy(block, &value, 4); break;
        case TensorType::BF16: std::memcpy(block, &bf16, 2); break;
        case TensorType::Q4_1: std::memcpy(block + 2, &half, 2); [[fallthrough]];
        default: std::memcpy(block, &half, 2);
      }
    }
    tensor = {.name = "t", .type = type, .shape = {columns, rows, 1, 1}, .data = bytes};
    values.resize(rows * columns);
    dequantize(type, bytes, values);
  }
  std::vector<std::byte> bytes;
  GgufTensor tensor;
  std::vector<float> values;
};

// As the kernels want it aligned.
struct Memory {
  explicit Memory(std::size_t bytes)
      : data(static_cast<std::byte*>(std::aligned_alloc(64, (bytes / 64 + 1) * 64)), std::free) {}
  std::byte* get() const { return data.get(); }
  std::unique_ptr<std::byte, decltype(&std::free)> data;
};

std::vector<float> random_rows(std::size_t count, bool bf16, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = bf16 ? bf16_to_float(float_to_bf16(normal(random))) : normal(random);
  return x;
}

// Layers of mixed types, both roundings, both ways to compute, at row counts around every threshold.
TEST(Linear, EveryWayAgreesWithADoubleReference) {
  ThreadTeam team(2, [] { at::set_num_threads(1); });
  at::set_num_threads(1);
  const std::size_t columns = 96;
  for (const TensorType type :
       {TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0}) {
    const RandomTensor first(type, 70, columns, 1), second(TensorType::Q8_0, 33, columns, 2);
    const GgufTensor parts[] = {first.tensor, second.tensor};
    auto values = first.values;
    values.insert(values.end(), second.values.begin(), second.values.end());
    for (const Rounding rounding : {Rounding::None, Rounding::Bf16, Rounding::Int8, Rounding::CoarseInt8}) {
      Linear linear(parts, rounding);
      const Memory memory(linear.groups_bytes());
      linear.pack_groups(team, memory.get());
      const std::size_t groups_bytes = linear.packed_bytes();
      RoundedRows rounded;
      ASSERT_EQ(linear.outputs(), 103u);
      const bool rounds = rounding != Rounding::None;
      for (const Product product : {Product::None, Product::F32, Product::Bf16}) {
        if ((product == Product::None && linear.needs_product()) || (product == Product::Bf16 && !rounds)) continue;
        for (const Arithmetic arithmetic : {Arithmetic::Any, Arithmetic::Prefill, Arithmetic::Decode}) {
          linear.set_plan({.product = product, .from_rows = product == Product::None ? SIZE_MAX : 3}, team);
          EXPECT_EQ(linear.packed_bytes(), groups_bytes + linear.bytes_for(product));
          for (const std::size_t rows : {1u, 2u, 3u, 40u, 150u}) {
            const auto x = random_rows(rows * columns, rounds, 3);
            std::vector<float> y(rows * linear.outputs());
            linear.forward(arithmetic, team, x.data(), rows, y.data(), rounded);
            for (std::size_t r = 0; r < rows; ++r) {
              for (std::size_t o = 0; o < linear.outputs(); ++o) {
                double sum = 0, size = 0;
                for (std::size_t c = 0; c < columns; ++c) {
                  const double term = double{x[r * columns + c]} * values[o * columns + c];
                  sum += term;
                  size += std::abs(term);
                }
                // A rounded weight is off by up to 2^-9 of itself, a rounded result likewise; a byte by a 254th of the
                // largest of its group.
                const double error = rounding >= Rounding::Int8 ? 1.0 / 64 : rounds ? 1.0 / 256 : 2e-6;
                ASSERT_NEAR(y[r * linear.outputs() + o], sum, size * error)
                    << to_string(type) << " rows " << rows << " row " << r << " output " << o;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Linear, PrefillAndDecodeGiveARowTheSameBitsInEveryBatch) {
  ThreadTeam team(2, [] { at::set_num_threads(1); });
  at::set_num_threads(1);
  for (const std::size_t columns : {576u, 1536u}) {
    const std::size_t outputs = 192, rows = 200;
    const RandomTensor weights(TensorType::Q4_1, outputs, columns, 6);
    Linear linear(std::span(&weights.tensor, 1), Rounding::Bf16);
    const Memory memory(linear.groups_bytes());
    linear.pack_groups(team, memory.get());
    RoundedRows rounded;
    for (const Product product : {Product::None, Product::Bf16}) {
      LinearPlan plan{.product = product, .from_rows = 1};
      linear.set_plan(plan, team);
      plan.keeps_bits = linear.product_keeps_bits(team);  // whether it does depends on the machine
      linear.set_plan(plan, team);
      const auto x = random_rows(rows * columns, true, 7);
      for (const Arithmetic arithmetic : {Arithmetic::Prefill, Arithmetic::Decode}) {
        std::vector<float> whole(rows * outputs), part(rows * outputs);
        linear.forward(arithmetic, team, x.data(), rows, whole.data(), rounded);
        std::mt19937 random(8);
        for (std::size_t first = 0; first < rows;) {
          const std::size_t count = std::min<std::size_t>(1 + random() % 90, rows - first);
          linear.forward(arithmetic, team, x.data() + first * columns, count, part.data() + first * outputs, rounded);
          first += count;
        }
        EXPECT_EQ(std::memcmp(whole.data(), part.data(), whole.size() * sizeof(float)), 0) << columns << " columns";
      }
    }
  }
}

// Gate and up joined some rows at a time give the bits of both multiplied whole.
TEST(Linear, AGatedLayerIsItsPartsJoined) {
  ThreadTeam team(8, [] { at::set_num_threads(1); });  // more than there are parts of many rows
  at::set_num_threads(1);
  const std::size_t columns = 96, width = 88, most_rows = 300;
  const RandomTensor gate(TensorType::Q4_1, width, columns, 12), up(TensorType::Q4_1, width, columns, 13);
  const GgufTensor parts[] = {gate.tensor, up.tensor};
  const auto x = random_rows(most_rows * columns, true, 14);
  for (const Rounding rounding : {Rounding::None, Rounding::Bf16, Rounding::Int8, Rounding::CoarseInt8}) {
    Linear linear(parts, rounding);
    const Memory memory(linear.groups_bytes());
    linear.pack_groups(team, memory.get());
    RoundedRows rounded;
    for (const Product product : {Product::None, Product::F32}) {
      linear.set_plan({.product = product, .from_rows = product == Product::None ? SIZE_MAX : 1}, team);
      for (const Arithmetic arithmetic : {Arithmetic::Any, Arithmetic::Prefill, Arithmetic::Decode}) {
        for (const std::size_t rows : {1u, 30u, 96u, 97u, 300u}) {
          std::vector<float> both(rows * 2 * width), expected(rows * width), y(rows * width);
          linear.forward(arithmetic, team, x.data(), rows, both.data(), rounded);
          kernels::swiglu(both.data(), rows, width, expected.data(), width);
          constexpr std::size_t kBehind = 1024;
          std::vector<float> workspace(linear.gated_floats(rows, team.threads()) + kBehind, 77.0f);
          linear.forward_gated(arithmetic, team, x.data(), rows, workspace.data(), y.data(), rounded);
          EXPECT_EQ(std::count(workspace.end() - kBehind, workspace.end(), 77.0f), kBehind) << rows << " rows";
          EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << rows << " rows";
        }
      }
    }
  }
}

TEST(Linear, TheMeasuredPlanIsOneThatWorks) {
  ThreadTeam team(2, [] { at::set_num_threads(1); });
  at::set_num_threads(1);
  for (const TensorType type : {TensorType::Q4_1, TensorType::F16}) {
    const RandomTensor weights(type, 64, 64, 9);
    Linear linear(std::span(&weights.tensor, 1), Rounding::Bf16);
    const Memory memory(linear.groups_bytes());
    linear.pack_groups(team, memory.get());
    const std::size_t groups_bytes = linear.packed_bytes();
    RoundedRows rounded;
    const LinearPlan plan = choose_product(linear, 64, team);
    linear.set_plan(plan, team);
    EXPECT_EQ(linear.packed_bytes(), groups_bytes + linear.bytes_for(plan.product));
    EXPECT_TRUE(plan.product != Product::None || !linear.needs_product());
    EXPECT_FALSE(plan.describe(type, group_products(linear.rounding())).empty());
    std::vector<float> x(64 * 64, 1.0f), y(64 * 64);
    for (const std::size_t rows : {1u, 64u}) linear.forward(Arithmetic::Any, team, x.data(), rows, y.data(), rounded);
  }
}

}  // namespace
}  // namespace tiercel
