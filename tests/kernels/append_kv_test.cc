// What kernels write into blocks.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/every_target.h"

namespace tiercel {
namespace {

TEST(AppendKv, WritesOnlyTheTokensOwnPlaces) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    for_every_target([&] {
      AttentionCase c(dtype, 64, 2, 1, 8, 3, 8);
      std::vector<std::byte> before(c.arena);
      const std::vector<float> ones(2 * 64, 1.0f), twos(2 * 64, 2.0f);
      kernels::append_kv({c.base, c.layout, 2}, c.table[0], 5, ones.data(), twos.data());
      const std::size_t size = size_of(dtype);
      for (std::size_t i = 0; i < c.layout.block_elements(); ++i) {
        const std::size_t token = i / 64 % 8, layer = i / c.layout.layer_stride();
        const bool is_value = i % c.layout.layer_stride() >= c.layout.value_offset();
        const std::byte* at = c.base + c.table[0] * c.layout.block_bytes() + i * size;
        if (layer != 2 || token != 5) {
          ASSERT_EQ(std::memcmp(at, before.data() + (at - c.arena.data()), size), 0) << "element " << i;
          continue;
        }
        std::uint32_t bits = 0;
        std::memcpy(&bits, at, size);
        float value;
        std::memcpy(&value, &bits, 4);
        if (dtype == DType::F16) value = half_to_float(static_cast<std::uint16_t>(bits));
        if (dtype == DType::BF16) value = bf16_to_float(static_cast<std::uint16_t>(bits));
        ASSERT_EQ(value, is_value ? 2.0f : 1.0f) << "element " << i;
      }
    });
  }
}

// Every byte of an arena is as the plain kernel leaves it: rows of any size, zeros and very small and large values
// among them.
TEST(AppendKv, CodesAndScalesAreThoseOfThePlainKernel) {
  for_every_target([] {
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    for (int round = 0; round < 40; ++round) {
      const KvLayout layout{.layers = 2,
                            .kv_heads = static_cast<std::uint32_t>(1 + random() % 4),
                            .head_dim = static_cast<std::uint32_t>(16 * (1 + random() % 16)),
                            .block_tokens = 8u << random() % 5,
                            .dtype = DType::Int8};
      const std::size_t width = layout.kv_heads * layout.head_dim, block = random() % 2;
      const std::size_t layer = random() % 2, token = random() % layout.block_tokens;
      std::vector<float> k(width), v(width);
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        const float magnitude = std::exp2(static_cast<float>(static_cast<int>(random() % 200) - 110));
        for (std::size_t i = head * layout.head_dim; i < (head + 1) * layout.head_dim; ++i) {
          k[i] = magnitude * normal(random);
          v[i] = random() % 4 == 0 ? 0.0f : normal(random) / magnitude;
        }
      }
      std::vector<std::byte> arena(2 * layout.block_stride());
      for (std::byte& byte : arena) byte = static_cast<std::byte>(random());
      std::vector<std::byte> expected = arena;
      kernels::append_kv({arena.data(), layout, layer}, static_cast<BlockId>(block), token, k.data(), v.data());

      const kernels::CodedKvLayout coded{layout, kernels::KvCode::Int8};
      ASSERT_EQ(coded.block_bytes(), layout.block_bytes());
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        std::byte* at =
            expected.data() + block * layout.block_stride() + layer * coded.layer_stride() + head * coded.head_stride();
        for (const std::vector<float>* from : {&k, &v}) {
          kernels::encode_row(kernels::KvCode::Int8, from->data() + head * layout.head_dim, layout.head_dim,
                              at + token * coded.row_bytes(), at + coded.scale_offset() + token * coded.scale_bytes());
          at += coded.value_offset();
        }
      }
      ASSERT_EQ(arena, expected) << "round " << round << ", head_dim " << layout.head_dim;
    }
  });
}

}  // namespace
}  // namespace tiercel
