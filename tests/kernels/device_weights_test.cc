// Weights for GPUs are where device_weights.h says. No GPU is needed, nor an emulated one.
#include "kernels/device_weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/dequantize.h"
#include "tests/kernels/random_tensor.h"

namespace tiercel {
namespace {

using namespace kernels::cuda;

constexpr TensorType kTypes[] = {TensorType::F32,  TensorType::F16,  TensorType::BF16,
                                 TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0};
constexpr DType kDTypes[] = {DType::F32, DType::F16, DType::BF16};

template <class T>
T read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float read_element(const std::byte* at, DType dtype) {
  if (dtype == DType::F32) return read<float>(at);
  const auto bits = read<std::uint16_t>(at);
  return dtype == DType::F16 ? half_to_float(bits) : bf16_to_float(bits);
}

// As the header has it, from the beginning of its group.
float weight_at(const std::byte* group, WeightCode code, DType dtype, std::size_t output, std::size_t column) {
  const std::size_t g = output / 4, j = output % 4, t = column / 8, i = column % 8, lane = 4 * g + t;
  switch (code) {
    case WeightCode::Group4: {
      const float scale = half_to_float(read<std::uint16_t>(group + 4 * output));
      const float minimum = half_to_float(read<std::uint16_t>(group + 4 * output + 2));
      const auto nibbles = read<std::uint32_t>(group + 128 + 16 * lane + 4 * j);
      return scale * static_cast<float>(nibbles >> (4 * (i / 2) + 16 * (i % 2)) & 15u) + minimum;
    }
    case WeightCode::Group8: {
      const float scale = half_to_float(read<std::uint16_t>(group + 2 * output));
      return scale * static_cast<float>(read<std::int8_t>(group + 64 + j / 2 * 512 + 16 * lane + j % 2 * 8 + i));
    }
    case WeightCode::Plain: break;
  }
  const std::size_t element = dtype == DType::F32 ? ((2 * j + i / 4) * 32 + lane) * 4 + i % 4 : (j * 32 + lane) * 8 + i;
  return read_element(group + element * size_of(dtype), dtype);
}

float rounded(float value, DType dtype) {
  switch (dtype) {
    case DType::F32: return value;
    case DType::F16: return half_to_float(float_to_half(value));
    case DType::BF16: return bf16_to_float(float_to_bf16(value));
    case DType::Int8: break;
  }
  return 0;
}

TEST(DeviceWeights, EveryWeightIsWhereTheHeaderSaysAndNothingElseIsWritten) {
  std::mt19937 random(1);
  constexpr std::byte kUntouched{0xa5};
  const std::size_t columns = 96, first = 7, outputs = 7 + 40 + 9;  // from 7 on, of two tensors
  for (const TensorType type : kTypes) {
    EXPECT_TRUE(has_device_weights(type));
    for (const DType dtype : kDTypes) {
      for (const WeightCode code : {device_code(type), WeightCode::Plain}) {
        const testing::Message what = testing::Message() << to_string(type) << " " << to_string(dtype);
        SCOPED_TRACE(what);
        const RandomTensor a(type, 40, columns, random), b(type, 9, columns, random);
        std::vector<std::byte> data(device_weights_bytes(code, dtype, outputs, columns), kUntouched);
        ASSERT_EQ(data.size(), 2 * 3 * device_group_bytes(code, dtype));
        pack_device_weights(type, b.file.data(), 9, columns, code, dtype, first + 40, data.data());
        // In two parts.
        pack_device_weights(type, a.file.data(), 13, columns, code, dtype, first, data.data());
        pack_device_weights(type, a.file.data() + a.file.size() / 40 * 13, 27, columns, code, dtype, first + 13,
                            data.data());
        std::vector<float> exact = a.exact;
        exact.insert(exact.end(), b.exact.begin(), b.exact.end());
        for (std::size_t o = first; o < outputs; ++o) {
          for (std::size_t c = 0; c < columns; ++c) {
            const float weight = exact[(o - first) * columns + c];
            const std::byte* group = data.data() + (o / 32 * 3 + c / 32) * device_group_bytes(code, dtype);
            ASSERT_EQ(weight_at(group, code, dtype, o % 32, c % 32),
                      code == WeightCode::Plain ? rounded(weight, dtype) : weight)
                << "output " << o << " column " << c;
          }
        }
        const auto untouched = std::ranges::count(data, kUntouched);
        const auto others = static_cast<std::ptrdiff_t>(data.size() / 64 * (64 - (outputs - first)));
        EXPECT_GE(untouched, others);  // those that are packed may have this byte too
        EXPECT_LT(untouched, others + others / 4);
      }
    }
  }
}

TEST(DeviceWeights, FourBitWeightsAreAsManyBytesAsInTheFile) {
  EXPECT_EQ(device_weights_bytes(WeightCode::Group4, DType::BF16, 64, 4096),
            64 * 4096 / 32 * block_bytes(TensorType::Q4_1));
  EXPECT_EQ(device_weights_bytes(WeightCode::Group8, DType::BF16, 64, 4096),
            64 * 4096 / 32 * block_bytes(TensorType::Q8_0));
  EXPECT_EQ(device_weights_bytes(WeightCode::Plain, DType::F16, 33, 64), 64u * 64 * 2);
  EXPECT_EQ(device_weights_bytes(WeightCode::Plain, DType::F32, 33, 64), 64u * 64 * 4);
}

}  // namespace
}  // namespace tiercel
