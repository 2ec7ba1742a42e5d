// RoPE and append on the emulated device: every byte of the arena, and the queries, against the CPU kernels.
#include "kernels/kv_append_cuda.h"

#include <set>

#include <gtest/gtest.h>

#include "kernels/rope.h"
#include "tests/cuemu/device.h"
#include "tests/kernels/cuda_sequences.h"

namespace tiercel {
namespace {

using kernels::CodedKvLayout;
using kernels::KvCode;

// q, k and v are parts of the same rows, as one linear layer gives them.
void check(DType dtype, KvCode code, std::uint32_t head_dim, std::uint32_t kv_heads, std::size_t query_heads,
           std::uint32_t block_tokens, std::size_t tokens, std::size_t pairs, unsigned seed) {
  SCOPED_TRACE(testing::Message() << to_string(dtype) << " code " << static_cast<int>(code) << " head_dim " << head_dim
                                  << " pairs " << pairs);
  cuemu::reset_device({.seed = seed});
  std::mt19937 random(seed);
  const CodedKvLayout layout = {
      {.layers = 2, .kv_heads = kv_heads, .head_dim = head_dim, .block_tokens = block_tokens, .dtype = dtype}, code};
  const std::size_t layer = 1, blocks = 5, longest = 50, q_width = query_heads * head_dim,
                    kv_width = kv_heads * head_dim;
  const std::size_t stride = q_width + 2 * kv_width + 2;
  const auto rows = random_values(tokens * stride, dtype, random);
  std::vector<std::uint32_t> slots, positions;
  std::set<std::uint32_t> taken;
  while (slots.size() < tokens) {
    const auto slot = static_cast<std::uint32_t>(random() % (blocks * block_tokens));
    if (taken.insert(slot).second) slots.push_back(slot);
    positions.resize(slots.size(), static_cast<std::uint32_t>(random() % longest));
  }
  std::vector<float> cos_sin(longest * pairs * 2);
  std::vector<double> frequencies(pairs);
  for (std::size_t i = 0; i < pairs; ++i)
    frequencies[i] = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
  for (std::size_t p = 0; p < longest; ++p) kernels::rope_angles(frequencies.data(), pairs, p, &cos_sin[p * pairs * 2]);

  std::vector<std::byte> arena(blocks * layout.block_bytes(), std::byte{0x47});
  const DeviceMemory<std::byte> device_arena(arena), device_rows(to_elements(rows, dtype));
  const DeviceMemory<std::uint32_t> device_slots(slots), device_positions(positions);
  const DeviceMemory<float> device_cos_sin(cos_sin);
  std::byte* q = device_rows.data();
  ASSERT_EQ(kernels::cuda::kv_append({.kv = {device_arena.data(), layout, layer},
                                      .slots = device_slots.data(),
                                      .positions = device_positions.data(),
                                      .cos_sin = device_cos_sin.data(),
                                      .pairs = pairs,
                                      .tokens = tokens,
                                      .query_heads = query_heads,
                                      .q = q,
                                      .q_stride = stride,
                                      .k = q + q_width * size_of(dtype),
                                      .v = q + (q_width + kv_width) * size_of(dtype),
                                      .kv_stride = stride},
                                     nullptr),
            cudaSuccess);

  // Keys and queries are compared within rounding; a code may then be the next one.
  const auto rows_after = to_floats(device_rows.read(), dtype);
  const auto arena_after = device_arena.read();
  std::vector<bool> written(arena.size());
  for (std::size_t t = 0; t < tokens; ++t) {
    std::vector<float> row(rows.begin() + static_cast<std::ptrdiff_t>(t * stride),
                           rows.begin() + static_cast<std::ptrdiff_t>((t + 1) * stride));
    kernels::rope(row.data(), query_heads + kv_heads, head_dim, &cos_sin[positions[t] * pairs * 2], pairs);
    for (std::size_t i = 0; i < stride; ++i) {
      const float expected = i < q_width ? row[i] : rows[t * stride + i];
      ASSERT_NEAR(rows_after[t * stride + i], expected,
                  i < q_width ? 1e-6 + 1.01 * rounding_of(dtype) * std::abs(expected) : 0.0);
    }
    for (std::size_t h = 0; h < 2 * kv_heads; ++h) {
      const bool is_value = h >= kv_heads;
      const std::size_t head =
          layer * layout.layer_stride() + (is_value ? layout.value_offset() : 0) + h % kv_heads * layout.head_stride();
      const std::size_t begin = slots[t] / block_tokens * layout.block_bytes() + head;
      const std::size_t codes = begin + slots[t] % block_tokens * layout.row_bytes();
      const std::size_t scales = begin + layout.scale_offset() + slots[t] % block_tokens * layout.scale_bytes();
      std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(codes), layout.row_bytes(), true);
      std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(scales), layout.scale_bytes(), true);
      const float* expected = &row[q_width + h * head_dim];
      std::vector<float> got(head_dim), own(expected, expected + head_dim);
      float tolerance = 1e-6f;
      if (code == KvCode::Plain) {
        got = to_floats({arena_after.begin() + static_cast<std::ptrdiff_t>(codes),
                         arena_after.begin() + static_cast<std::ptrdiff_t>(codes + layout.row_bytes())},
                        dtype);
      } else {
        std::vector<std::byte> own_codes(layout.row_bytes()), own_scales(layout.scale_bytes());
        kernels::encode_row(code, expected, head_dim, own_codes.data(), own_scales.data());
        kernels::decode_row(code, &arena_after[codes], &arena_after[scales], head_dim, got.data());
        kernels::decode_row(code, own_codes.data(), own_scales.data(), head_dim, own.data());
        if (is_value) {  // nothing was computed before: the same bytes
          ASSERT_EQ(std::memcmp(own_codes.data(), &arena_after[codes], own_codes.size()), 0);
          ASSERT_EQ(std::memcmp(own_scales.data(), &arena_after[scales], own_scales.size()), 0);
        } else {
          float most = 0;
          for (std::size_t i = 0; i < head_dim; ++i) most = std::max(most, std::abs(expected[i]));
          tolerance = most / (code == KvCode::Int8 ? 120.0f : code == KvCode::Fp8 ? 12.0f : 7.0f);
        }
      }
      for (std::size_t i = 0; i < head_dim; ++i)
        ASSERT_NEAR(got[i], own[i], tolerance + 1.01 * rounding_of(dtype) * std::abs(own[i]));
    }
  }
  for (std::size_t i = 0; i < arena.size(); ++i) {
    ASSERT_TRUE(written[i] || arena_after[i] == std::byte{0x47}) << "byte " << i;
  }
}

TEST(CudaKvAppend, PlainBlocks) {
  unsigned seed = 0;
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    check(dtype, KvCode::Plain, 64, 3, 9, 32, 11, 32, seed++);
    check(dtype, KvCode::Plain, 80, 1, 8, 16, 5, 40, seed++);
    check(dtype, KvCode::Plain, 96, 2, 2, 8, 7, 24, seed++);  // of which only a part is rotated
    check(dtype, KvCode::Plain, 128, 2, 4, 32, 3, 64, seed++);
    check(dtype, KvCode::Plain, 256, 1, 1, 8, 2, 128, seed++);
  }
}

TEST(CudaKvAppend, CodedBlocks) {
  unsigned seed = 50;
  for (const KvCode code : {KvCode::Int8, KvCode::Fp8, KvCode::Int4}) {
    for (const std::uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
      for (const DType dtype : {DType::F32, DType::BF16})
        check(dtype, code, head_dim, 2, 3, 16, 6, head_dim / 2, seed++);
    }
  }
}

}  // namespace
}  // namespace tiercel
