// Prefill attention on the emulated device against the CPU kernel in float32: within the rounding of softmax weights
// and results to the element type.
#include "kernels/prefill_attention_cuda.h"

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
  std::vector<std::uint32_t> lengths, queries;
};

// The last `queries[i]` of the first `lengths[i]` tokens of each sequence, by one call. q has the rows of these, one
// after another.
std::vector<float> prefill(const CudaSequences& s, std::size_t layer, const std::vector<std::uint32_t>& lengths,
                           const std::vector<std::uint32_t>& queries, std::size_t group, const std::vector<float>& q,
                           std::size_t stride, float scale) {
  const DType dtype = s.layout.dtype;
  std::vector<std::uint32_t> begins = {0};
  for (const std::uint32_t count : queries) begins.push_back(begins.back() + count);
  const DeviceMemory<std::byte> arena(s.arena), device_q(to_elements(q, dtype));
  const DeviceMemory<std::byte> out(to_elements(std::vector<float>(q.size(), 77.0f), dtype));
  const DeviceMemory<BlockId> tables(s.tables);
  const DeviceMemory<std::uint32_t> device_begins(begins), device_lengths(lengths);
  EXPECT_EQ(kernels::cuda::prefill_attention({.kv = {arena.data(), {s.layout}, layer},
                                              .block_tables = tables.data(),
                                              .table_stride = s.table_stride,
                                              .query_begins = device_begins.data(),
                                              .lengths = device_lengths.data(),
                                              .sequences = lengths.size(),
                                              .most_queries = *std::ranges::max_element(queries),
                                              .group = group,
                                              .q = device_q.data(),
                                              .q_stride = stride,
                                              .out = out.data(),
                                              .out_stride = stride,
                                              .scale = scale},
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
  const std::size_t width = shape.kv_heads * shape.group * shape.head_dim, stride = width + 6;
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)), rounding = rounding_of(shape.dtype);
  const std::size_t rows = std::accumulate(shape.queries.begin(), shape.queries.end(), std::size_t{0});
  const auto q = random_values(rows * stride, shape.dtype, random);
  const auto out = prefill(s, layer, shape.lengths, shape.queries, shape.group, q, stride, scale);

  double squares = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < shape.lengths.size(); ++i) {
    const auto expected = s.attend(layer, i, shape.queries[i], shape.group, &q[first * stride], stride, scale);
    for (std::size_t row = 0; row < shape.queries[i]; ++row) {
      for (std::size_t d = 0; d < width; ++d) {
        const float got = out[(first + row) * stride + d], want = expected[row * stride + d];
        ASSERT_NEAR(got, want, 2e-6 + rounding * (1.01 * std::abs(want) + 2))
            << "sequence " << i << " query " << row << " element " << d;
        squares += (got - want) * (got - want);
      }
      for (std::size_t d = width; d < stride; ++d) ASSERT_EQ(out[(first + row) * stride + d], 77.0f);
    }
    first += shape.queries[i];
  }
  EXPECT_LT(std::sqrt(squares / static_cast<double>(rows * width)), rounding / 2);

  // The last sequence's first queries in a call of their own: the same bits.
  const std::uint32_t all = shape.queries.back(), head = all / 2;
  if (head == 0) return;
  first -= all;
  const std::vector<float> own_q(q.begin() + static_cast<std::ptrdiff_t>(first * stride),
                                 q.begin() + static_cast<std::ptrdiff_t>((first + head) * stride));
  CudaSequences alone = s;
  alone.tables.erase(alone.tables.begin(), alone.tables.end() - static_cast<std::ptrdiff_t>(s.table_stride));
  const auto part =
      prefill(alone, layer, {shape.lengths.back() - all + head}, {head}, shape.group, own_q, stride, scale);
  ASSERT_EQ(std::memcmp(part.data(), &out[first * stride], part.size() * sizeof(float)), 0);
}

TEST(CudaPrefillAttention, AgreesWithTheCpuKernel) {
  unsigned seed = 0;
  for (const DType dtype : {DType::F16, DType::BF16}) {
    check({dtype, 64, 3, 3, 32, {70, 1, 33}, {70, 1, 20}}, seed++);
    check({dtype, 80, 1, 4, 16, {129}, {40}}, seed++);
    check({dtype, 96, 1, 1, 64, {5, 100}, {5, 66}}, seed++);
    check({dtype, 128, 2, 2, 8, {140, 65}, {9, 65}}, seed++);
    check({dtype, 256, 1, 5, 32, {40, 34}, {8, 34}}, seed++);
  }
}

TEST(CudaPrefillAttention, RandomShapes) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const int rounds = 2;
#else
  const int rounds = 12;
#endif
  std::mt19937 random(9);
  const auto one_of = [&](std::initializer_list<std::uint32_t> of) { return of.begin()[random() % of.size()]; };
  for (int round = 0; round < rounds; ++round) {
    Shape shape = {random() % 2 == 0 ? DType::F16 : DType::BF16,
                   one_of({64, 80, 96, 128, 256}),
                   one_of({1, 2}),
                   one_of({1, 2, 3, 4, 7, 8}),
                   one_of({8, 16, 32, 64}),
                   {},
                   {}};
    for (unsigned i = 1 + random() % 3; i > 0; --i) {
      shape.lengths.push_back(1 + static_cast<std::uint32_t>(random() % 150));
      shape.queries.push_back(1 + static_cast<std::uint32_t>(random() % std::min(shape.lengths.back(), 40u)));
    }
    check(shape, 100 + static_cast<unsigned>(round));
  }
}

TEST(CudaPrefillAttention, WhatItHasNoKernelForIsRefused) {
  cuemu::reset_device({});
  const KvLayout layout = {.layers = 1, .kv_heads = 1, .head_dim = 64, .dtype = DType::F32};
  EXPECT_EQ(kernels::cuda::prefill_attention({.kv = {nullptr, {layout}}}, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(kernels::cuda::prefill_attention({.kv = {nullptr, {layout, kernels::KvCode::Int8}}}, nullptr),
            cudaErrorNotSupported);
}

}  // namespace
}  // namespace tiercel
