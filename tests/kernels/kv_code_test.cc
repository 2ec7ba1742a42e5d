// KV in fewer bits: what comes back, and the bytes' shape.
#include "kernels/kv_code.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

using kernels::KvCode;

TEST(KvCode, EveryValueComesBackWithinHalfAStep) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const std::size_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const KvCode code : {KvCode::Int8, KvCode::Fp8, KvCode::Int4}) {
      for (const float magnitude : {1e-26f, 1e-3f, 1.0f, 1e30f}) {
        std::vector<float> values(head_dim), back(head_dim);
        for (float& value : values) value = magnitude * (normal(random) + 0.5f);
        const kernels::CodedKvLayout layout = {
            {.layers = 1, .kv_heads = 1, .head_dim = static_cast<std::uint32_t>(head_dim)}, code};
        std::vector<std::byte> codes(layout.row_bytes()), scales(layout.scale_bytes());
        kernels::encode_row(code, values.data(), head_dim, codes.data(), scales.data());
        kernels::decode_row(code, codes.data(), scales.data(), head_dim, back.data());
        float most = 0;
        for (const float value : values) most = std::max(most, std::abs(value));
        for (std::size_t i = 0; i < head_dim; ++i) {
          // A bf16 scale is up to 2^-7 more than it must be.
          const float step = code == KvCode::Int8   ? most / 127 / 2
                             : code == KvCode::Int4 ? 2 * most / 15 / 2
                                                    : std::max(std::abs(values[i]) / 16, most / 448 / 1024);
          ASSERT_LE(std::abs(back[i] - values[i]), step * 1.02f)
              << "code " << static_cast<int>(code) << " head_dim " << head_dim << " value " << values[i];
        }
      }
    }
  }
}

TEST(KvCode, EqualAndZeroValuesAreExact) {
  for (const KvCode code : {KvCode::Int8, KvCode::Fp8, KvCode::Int4}) {
    for (const float value : {0.0f, 1.0f, -2.0f}) {
      if (code == KvCode::Int8 && value != 0) continue;  // 127 steps make no power of two
      const std::vector<float> values(64, value);
      std::vector<float> back(64, 9.0f);
      std::vector<std::byte> codes(64), scales(8);
      kernels::encode_row(code, values.data(), 64, codes.data(), scales.data());
      kernels::decode_row(code, codes.data(), scales.data(), 64, back.data());
      if (code == KvCode::Fp8) {
        for (const float b : back) ASSERT_NEAR(b, value, std::abs(value) / 16);
      } else {
        ASSERT_EQ(back, values) << static_cast<int>(code);
      }
    }
  }
}

TEST(KvCode, LayoutsKeepHeadsAligned) {
  for (const KvCode code : {KvCode::Plain, KvCode::Int8, KvCode::Fp8, KvCode::Int4}) {
    for (const std::uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
      const kernels::CodedKvLayout layout = {{.layers = 2, .kv_heads = 3, .head_dim = head_dim, .block_tokens = 8},
                                             code};
      EXPECT_EQ(layout.head_stride() % 16, 0u);
      EXPECT_EQ(layout.block_bytes(), 2u * 2 * 3 * 8 * (layout.row_bytes() + layout.scale_bytes()));
      if (code == KvCode::Plain) {
        EXPECT_EQ(layout.block_bytes(), layout.layout.block_bytes());
      }
    }
  }
}

}  // namespace
}  // namespace tiercel
