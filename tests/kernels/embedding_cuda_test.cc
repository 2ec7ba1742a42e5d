// Embedding and gathering of rows on the emulated device: the values that the file has, rounded once.
#include "kernels/embedding_cuda.h"

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/kernels/cuda_sequences.h"
#include "tests/kernels/random_tensor.h"

namespace tiercel {
namespace {

constexpr DType kDTypes[] = {DType::F32, DType::F16, DType::BF16};
constexpr float kUntouched = 77;

TEST(CudaEmbedding, EachTokenGetsItsRow) {
  std::mt19937 random(1);
  const std::size_t vocabulary = 75, columns = 1120, padding = 8, stride = columns + padding;
  for (const DType dtype : kDTypes) {
    for (const TensorType type :
         {TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0}) {
      cuemu::reset_device({.seed = random()});
      const RandomTensor tensor(type, vocabulary, columns, random);
      const auto code = kernels::cuda::device_code(type);
      std::vector<std::byte> packed(kernels::cuda::device_weights_bytes(code, dtype, vocabulary, columns));
      kernels::cuda::pack_device_weights(type, tensor.file.data(), vocabulary, columns, code, dtype, 0, packed.data());
      std::vector<TokenId> tokens = {0, 74, 31, 32, 74, 1, 2, 3};
      for (int i = 0; i < 6; ++i) tokens.push_back(static_cast<TokenId>(random() % vocabulary));
      const DeviceMemory<std::byte> table(packed);
      const DeviceMemory<TokenId> device_tokens(tokens);
      const DeviceMemory<std::byte> out(to_elements(std::vector<float>(tokens.size() * stride, kUntouched), dtype));
      ASSERT_EQ(kernels::cuda::embed({.dtype = dtype,
                                      .table = {code, table.data(), vocabulary, columns},
                                      .tokens = device_tokens.data(),
                                      .rows = tokens.size(),
                                      .out = out.data(),
                                      .out_stride = stride},
                                     nullptr),
                cudaSuccess);
      std::vector<float> expected;
      for (const TokenId token : tokens) {
        const auto row = tensor.exact.begin() + static_cast<std::ptrdiff_t>(token * columns);
        expected.insert(expected.end(), row, row + columns);
        expected.insert(expected.end(), padding, kUntouched);
      }
      // As numbers: Q4_0 has a zero of either sign.
      ASSERT_EQ(to_floats(out.read(), dtype), to_floats(to_elements(expected, dtype), dtype))
          << to_string(type) << " " << to_string(dtype);
    }
  }
}

TEST(CudaGatherRows, TheRowsThatAreNamedComeInOrder) {
  std::mt19937 random(2);
  const std::size_t rows = 9, width = 2056, from_stride = width + 16, to_stride = width + 8;
  for (const DType dtype : kDTypes) {
    cuemu::reset_device({.seed = random()});
    const auto values = random_values(rows * from_stride, dtype, random);
    const std::vector<std::uint32_t> wanted = {8, 0, 3, 3, 7};
    const DeviceMemory<std::byte> from(to_elements(values, dtype));
    const DeviceMemory<std::byte> to(to_elements(std::vector<float>(wanted.size() * to_stride, kUntouched), dtype));
    const DeviceMemory<std::uint32_t> device_wanted(wanted);
    ASSERT_EQ(kernels::cuda::gather_rows({.dtype = dtype,
                                          .from = from.data(),
                                          .from_stride = from_stride,
                                          .rows = device_wanted.data(),
                                          .count = wanted.size(),
                                          .width = width,
                                          .to = to.data(),
                                          .to_stride = to_stride},
                                         nullptr),
              cudaSuccess);
    std::vector<float> expected;
    for (const std::uint32_t row : wanted) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * from_stride);
      expected.insert(expected.end(), begin, begin + width);
      expected.insert(expected.end(), to_stride - width, kUntouched);
    }
    ASSERT_EQ(to.read(), to_elements(expected, dtype)) << to_string(dtype);
  }
}

TEST(CudaGatherRows, NoRowsAreNoWork) {
  cuemu::reset_device({});
  EXPECT_EQ(kernels::cuda::gather_rows({}, nullptr), cudaSuccess);
  EXPECT_EQ(kernels::cuda::embed({}, nullptr), cudaSuccess);
  EXPECT_EQ(cuemu::device_counts().launches, 0);
}

}  // namespace
}  // namespace tiercel
