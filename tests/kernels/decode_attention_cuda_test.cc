// Decode attention on the emulated device against the CPU kernel: within the rounding of the result to the element
// type, and what sums in another order differ by.
#include "kernels/decode_attention_cuda.h"

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/kernels/cuda_sequences.h"

namespace tiercel {
namespace {

struct Shape {
  DType dtype;
  std::uint32_t head_dim, kv_heads;
  std::size_t group;
  std::uint32_t block_tokens;
  std::vector<std::uint32_t> lengths;
};

// Rows of `lengths[i]` tokens, each of a sequence, by one call. `coded`: KV in another code, as the bytes of a whole
// arena; `dtype` is that of queries and results then.
struct Coded {
  kernels::KvCode code = kernels::KvCode::Plain;
  DType dtype = DType::BF16;
  std::vector<std::byte> arena;
};
std::vector<float> decode(const CudaSequences& s, std::size_t layer, const std::vector<std::uint32_t>& sequences,
                          const std::vector<std::uint32_t>& lengths, std::size_t group, const std::vector<float>& q,
                          std::size_t q_stride, float scale, const Coded& coded = {}) {
  const bool plain = coded.code == kernels::KvCode::Plain;
  const DType dtype = plain ? s.layout.dtype : coded.dtype;
  KvLayout layout = s.layout;
  layout.dtype = dtype;
  const std::uint32_t longest = *std::ranges::max_element(lengths);
  const DeviceMemory<std::byte> arena(plain ? s.arena : coded.arena), queries(to_elements(q, dtype));
  const DeviceMemory<std::byte> out(to_elements(std::vector<float>(q.size(), 77.0f), dtype));
  const DeviceMemory<BlockId> tables(s.tables);
  const DeviceMemory<std::uint32_t> row_sequences(sequences), row_lengths(lengths);
  const DeviceMemory<float> workspace(std::max<std::size_t>(
      1, kernels::cuda::decode_attention_workspace_floats(s.layout, lengths.size(), group, longest)));
  EXPECT_EQ(kernels::cuda::decode_attention({.kv = {arena.data(), {layout, coded.code}, layer},
                                             .block_tables = tables.data(),
                                             .table_stride = s.table_stride,
                                             .row_sequences = row_sequences.data(),
                                             .lengths = row_lengths.data(),
                                             .rows = lengths.size(),
                                             .longest = longest,
                                             .group = group,
                                             .q = queries.data(),
                                             .q_stride = q_stride,
                                             .out = out.data(),
                                             .out_stride = q_stride,
                                             .scale = scale,
                                             .workspace = workspace.data()},
                                            nullptr),
            cudaSuccess);
  return to_floats(out.read(), dtype);
}

void check(const Shape& shape, unsigned seed) {
  SCOPED_TRACE(testing::Message() << to_string(shape.dtype) << " head_dim " << shape.head_dim << " kv_heads "
                                  << shape.kv_heads << " group " << shape.group << " block_tokens "
                                  << shape.block_tokens << " seed " << seed);
  cuemu::reset_device({.seed = seed});
  std::mt19937 random(seed);
  const std::size_t layer = 1;
  const KvLayout layout = {.layers = 2,
                           .kv_heads = shape.kv_heads,
                           .head_dim = shape.head_dim,
                           .block_tokens = shape.block_tokens,
                           .dtype = shape.dtype};
  CudaSequences s(layout, layer, shape.lengths, random);
  const std::size_t width = shape.kv_heads * shape.group * shape.head_dim, stride = width + 16,
                    rows = shape.lengths.size();
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const std::vector<float> q = random_values(rows * stride, shape.dtype, random);
  std::vector<std::uint32_t> sequences(rows);
  std::iota(sequences.begin(), sequences.end(), 0u);

  const auto out = decode(s, layer, sequences, shape.lengths, shape.group, q, stride, scale);
  for (std::size_t row = 0; row < rows; ++row) {
    const auto expected = s.attend(layer, row, 1, shape.group, &q[row * stride], stride, scale);
    for (std::size_t i = 0; i < width; ++i) {
      ASSERT_NEAR(out[row * stride + i], expected[i], 2e-6 + 1.01 * rounding_of(shape.dtype) * std::abs(expected[i]))
          << "row " << row << " of " << shape.lengths[row] << " tokens, element " << i;
    }
    for (std::size_t i = width; i < stride; ++i) ASSERT_EQ(out[row * stride + i], 77.0f);
  }

  // The same bits alone as in the batch.
  const std::size_t row = random() % rows;
  const auto alone = decode(s, layer, {sequences[row]}, {shape.lengths[row]}, shape.group,
                            {q.begin() + static_cast<std::ptrdiff_t>(row * stride),
                             q.begin() + static_cast<std::ptrdiff_t>((row + 1) * stride)},
                            stride, scale);
  ASSERT_EQ(std::memcmp(alone.data(), &out[row * stride], width * sizeof(float)), 0);
}

TEST(CudaDecodeAttention, AgreesWithTheCpuKernel) {
  unsigned seed = 0;
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    check({dtype, 64, 3, 3, 32, {1, 300, 256, 257, 31}}, seed++);
    check({dtype, 80, 1, 8, 16, {140}}, seed++);
    check({dtype, 96, 2, 1, 128, {5, 600}}, seed++);
    check({dtype, 128, 2, 4, 8, {33, 270}}, seed++);
    check({dtype, 256, 1, 9, 32, {40, 2}}, seed++);
  }
}

TEST(CudaDecodeAttention, RandomShapes) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const int rounds = 4;
#else
  const int rounds = 30;
#endif
  std::mt19937 random(9);
  const auto one_of = [&](std::initializer_list<std::uint32_t> of) { return of.begin()[random() % of.size()]; };
  for (int round = 0; round < rounds; ++round) {
    Shape shape = {static_cast<DType>(random() % 3),  one_of({64, 80, 96, 128, 256}), one_of({1, 2, 3}),
                   one_of({1, 2, 3, 4, 5, 7, 8, 12}), one_of({8, 16, 32, 64}),        {}};
    for (unsigned i = 1 + random() % 4; i > 0; --i)
      shape.lengths.push_back(1 + static_cast<std::uint32_t>(random() % 400));
    check(shape, 100 + static_cast<unsigned>(round));
  }
}

// The CPU kernel attends over what the codes stand for.
TEST(CudaDecodeAttention, CodedKv) {
  std::mt19937 random(12);
  const std::size_t layer = 1, group = 3;
  for (const kernels::KvCode code : {kernels::KvCode::Int8, kernels::KvCode::Fp8, kernels::KvCode::Int4}) {
    for (const std::uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
      SCOPED_TRACE(testing::Message() << "code " << static_cast<int>(code) << " head_dim " << head_dim);
      cuemu::reset_device({.seed = random()});
      const DType dtype = random() % 2 == 0 ? DType::BF16 : DType::F16;
      const KvLayout layout = {
          .layers = 2, .kv_heads = 2, .head_dim = head_dim, .block_tokens = 16, .dtype = DType::F32};
      const kernels::CodedKvLayout coded_layout = {layout, code};
      const std::vector<std::uint32_t> lengths = {40, 270};
      CudaSequences s(layout, layer, lengths, random);
      Coded coded{code, dtype,
                  std::vector<std::byte>(s.arena.size() / layout.block_bytes() * coded_layout.block_bytes())};
      for (std::size_t block = 0; block < s.arena.size() / layout.block_bytes(); ++block) {
        for (std::size_t row = 0; row < 2 * 2 * 2 * 16; ++row) {  // layers, K and V, heads, tokens
          std::byte* plain = &s.arena[block * layout.block_bytes() + row * head_dim * 4];
          std::byte* head = &coded.arena[block * coded_layout.block_bytes() + row / 16 * coded_layout.head_stride()];
          std::byte* codes = head + row % 16 * coded_layout.row_bytes();
          std::byte* scales = head + coded_layout.scale_offset() + row % 16 * coded_layout.scale_bytes();
          std::vector<float> values(head_dim);
          std::memcpy(values.data(), plain, head_dim * 4);
          kernels::encode_row(code, values.data(), head_dim, codes, scales);
          kernels::decode_row(code, codes, scales, head_dim, values.data());
          std::memcpy(plain, values.data(), head_dim * 4);
        }
      }
      const std::size_t width = 2 * group * head_dim;
      const auto q = random_values(2 * width, dtype, random);
      const auto out = decode(s, layer, {0, 1}, lengths, group, q, width, 0.1f, coded);
      for (std::size_t row = 0; row < 2; ++row) {
        const auto expected = s.attend(layer, row, 1, group, &q[row * width], width, 0.1f);
        for (std::size_t i = 0; i < width; ++i) {
          ASSERT_NEAR(out[row * width + i], expected[i], 5e-6 + 1.01 * rounding_of(dtype) * std::abs(expected[i]))
              << "row " << row;
        }
      }
    }
  }
}

// As a step with drafts has them: several rows of one sequence, each seeing one token more.
TEST(CudaDecodeAttention, RowsOfOneSequence) {
  cuemu::reset_device({});
  std::mt19937 random(4);
  const KvLayout layout = {.layers = 1, .kv_heads = 1, .head_dim = 64, .block_tokens = 16, .dtype = DType::F32};
  CudaSequences s(layout, 0, {20, 50}, random);
  const auto q = random_values(3 * 128, DType::F32, random);
  const auto out = decode(s, 0, {1, 1, 1}, {48, 49, 50}, 2, q, 128, 0.125f);
  const auto expected = s.attend(0, 1, 3, 2, q.data(), 128, 0.125f);
  for (std::size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(out[i], expected[i], 2e-6);
}

TEST(CudaDecodeAttention, LargeScoresDoNotOverflow) {
  cuemu::reset_device({});
  std::mt19937 random(4);
  const KvLayout layout = {.layers = 1, .kv_heads = 1, .head_dim = 64, .block_tokens = 16, .dtype = DType::F32};
  CudaSequences s(layout, 0, {300}, random);
  auto q = random_values(64, DType::F32, random);
  for (float& value : q) value *= 1000;
  const auto out = decode(s, 0, {0}, {300}, 1, q, 64, 0.125f);
  const auto expected = s.attend(0, 0, 1, 1, q.data(), 64, 0.125f);
  for (std::size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(out[i], expected[i], 5e-3);
}

TEST(CudaDecodeAttention, AHeadSizeWithoutAKernelIsRefused) {
  cuemu::reset_device({});
  EXPECT_EQ(kernels::cuda::decode_attention(
                {.kv = {nullptr, {{.layers = 1, .kv_heads = 1, .head_dim = 48}}, 0}, .rows = 1, .longest = 1}, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tiercel
