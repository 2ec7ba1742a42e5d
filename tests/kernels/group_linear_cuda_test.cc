// Linear layers on the emulated device against weights and sums in double, and against the CPU kernel in float32:
// within the rounding of results to their type, and of float32 sums in another order.
#include "kernels/group_linear_cuda.h"

#include <gtest/gtest.h>

#include "kernels/group_linear.h"
#include "tests/cuemu/device.h"
#include "tests/kernels/cuda_sequences.h"
#include "tests/kernels/random_tensor.h"

namespace tiercel {
namespace {

using kernels::cuda::DeviceWeights;
using kernels::cuda::LinearArithmetic;
using kernels::cuda::WeightCode;

constexpr DType kDTypes[] = {DType::F32, DType::F16, DType::BF16};
constexpr LinearArithmetic kArithmetics[] = {LinearArithmetic::Prefill, LinearArithmetic::Decode};
constexpr float kUntouched = 77;

// A matrix in device memory, on top of what is no number in any code.
struct Matrix {
  Matrix(const std::vector<const RandomTensor*>& tensors, TensorType type, WeightCode code, DType dtype,
         std::size_t columns)
      : data(pack(tensors, type, code, dtype, columns)), view{code, data.data(), 0, columns} {
    for (const RandomTensor* tensor : tensors) view.outputs += tensor->exact.size() / columns;
  }
  static std::vector<std::byte> pack(const std::vector<const RandomTensor*>& tensors, TensorType type, WeightCode code,
                                     DType dtype, std::size_t columns) {
    std::size_t outputs = 0;
    for (const RandomTensor* tensor : tensors) outputs += tensor->exact.size() / columns;
    std::vector<std::byte> packed(kernels::cuda::device_weights_bytes(code, dtype, outputs, columns), std::byte{0xff});
    outputs = 0;
    for (const RandomTensor* tensor : tensors) {
      const std::size_t count = tensor->exact.size() / columns;
      kernels::cuda::pack_device_weights(type, tensor->file.data(), count, columns, code, dtype, outputs,
                                         packed.data());
      outputs += count;
    }
    return packed;
  }

  DeviceMemory<std::byte> data;
  DeviceWeights view;
};

struct Call {
  DType dtype;
  LinearArithmetic arithmetic;
  bool float_output = false;
  std::size_t x_padding = 8, y_padding = 3;
  std::size_t multiprocessors = 128;  // 1: prefill takes its large blocks

  DType output() const { return float_output ? DType::F32 : dtype; }

  // Rows of x, dense, to rows of y, dense; what lies between those on the device is nobody's.
  std::vector<float> operator()(const DeviceWeights& w, const float* x, std::size_t rows) const {
    const std::size_t x_stride = w.columns + x_padding, y_stride = w.outputs + y_padding;
    std::vector<float> strided(rows * x_stride, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t r = 0; r < rows; ++r) std::copy_n(x + r * w.columns, w.columns, &strided[r * x_stride]);
    const DeviceMemory<std::byte> device_x(to_elements(strided, dtype));
    // With a row of nobody's after the last.
    const DeviceMemory<std::byte> device_y(
        to_elements(std::vector<float>((rows + 1) * y_stride, kUntouched), output()));
    EXPECT_EQ(kernels::cuda::linear({.dtype = dtype,
                                     .w = w,
                                     .x = device_x.data(),
                                     .x_stride = x_stride,
                                     .rows = rows,
                                     .y = device_y.data(),
                                     .y_stride = y_stride,
                                     .float_output = float_output,
                                     .arithmetic = arithmetic,
                                     .multiprocessors = multiprocessors},
                                    nullptr),
              cudaSuccess);
    const auto all = to_floats(device_y.read(), output());
    std::vector<float> y;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i / y_stride < rows && i % y_stride < w.outputs) {
        y.push_back(all[i]);
      } else {
        EXPECT_EQ(all[i], kUntouched) << "row " << i / y_stride << ", output " << i % y_stride;
      }
    }
    return y;
  }
};

void check(TensorType type, WeightCode code, std::size_t outputs, std::size_t columns, std::size_t rows,
           const Call& call, std::mt19937& random) {
  SCOPED_TRACE(testing::Message() << to_string(type) << " as " << static_cast<int>(code) << ", "
                                  << to_string(call.dtype) << ", " << outputs << " outputs, " << columns << " columns, "
                                  << rows << " rows, arithmetic " << static_cast<int>(call.arithmetic));
  cuemu::reset_device({.seed = random()});
  const RandomTensor tensor(type, outputs, columns, random);
  const Matrix matrix({&tensor}, type, code, call.dtype, columns);
  std::vector<float> weights = tensor.exact;
  if (code == WeightCode::Plain) weights = to_floats(to_elements(weights, call.dtype), call.dtype);
  const auto x = random_values(rows * columns, call.dtype, random);
  const auto y = call(matrix.view, x.data(), rows);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < outputs; ++o) {
      double sum = 0, size = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        const double product = double{x[r * columns + c]} * weights[o * columns + c];
        sum += product;
        size += std::abs(product);
      }
      // Scale and minimum of a group are applied to sums, whose terms may cancel.
      ASSERT_NEAR(y[r * outputs + o], sum, 2e-6 * size + 1.01 * rounding_of(call.output()) * std::abs(sum))
          << "row " << r << ", output " << o;
    }
  }
}

TEST(CudaGroupLinear, AgreesWithSumsInDouble) {
  std::mt19937 random(1);
  for (const DType dtype : kDTypes) {
    for (const TensorType type : {TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0, TensorType::BF16}) {
      for (const LinearArithmetic arithmetic : kArithmetics) {
        const WeightCode code = kernels::cuda::device_code(type);
        check(type, code, 67, 96, 3, {dtype, arithmetic}, random);
        check(type, code, 150, 544, 1, {dtype, arithmetic, true, 0, 0}, random);
        check(type, code, 150, 160, 5, {dtype, arithmetic, false, 16, 2, 1}, random);
      }
    }
    check(TensorType::Q4_1, WeightCode::Plain, 40, 64, 5, {dtype, LinearArithmetic::Any}, random);
  }
}

TEST(CudaGroupLinear, RandomShapes) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const int rounds = 15;
#else
  const int rounds = 60;
#endif
  std::mt19937 random(2);
  constexpr TensorType kTypes[] = {TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0,
                                   TensorType::F32,  TensorType::F16,  TensorType::BF16};
  for (int round = 0; round < rounds; ++round) {
    const TensorType type = kTypes[random() % std::size(kTypes)];
    const std::size_t rows = 1 + random() % 70;
    const std::size_t columns = 32 * (1 + random() % (rows < 20 ? 64 : 12)), most_outputs = 100000 / columns;
    const Call call = {kDTypes[random() % 3], static_cast<LinearArithmetic>(random() % 3),
                       random() % 3 == 0,     8 * (random() % 3),
                       random() % 5,          random() % 2};
    check(type, kernels::cuda::device_code(type), 1 + random() % std::min<std::size_t>(most_outputs, 300), columns,
          rows, call, random);
  }
}

// Float32 throughout, as the CPU kernel has it: what a model on a device is held to.
TEST(CudaGroupLinear, Float32IsTheCpuKernelsButForTheOrderOfSums) {
  std::mt19937 random(3);
  const std::size_t outputs = 83, columns = 1056, rows = 11;
  for (const TensorType type : {TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0}) {
    cuemu::reset_device({.seed = random()});
    const RandomTensor tensor(type, outputs, columns, random);
    const Matrix matrix({&tensor}, type, kernels::cuda::device_code(type), DType::F32, columns);
    const kernels::GroupFormat format = kernels::group_format(type);
    std::vector<std::byte> tiles(kernels::group_weights_bytes(format, outputs, columns));
    kernels::pack_group_weights(type, tensor.file.data(), outputs, columns, 0, kernels::tiles_of(outputs),
                                tiles.data());
    const auto x = random_values(rows * columns, DType::F32, random);
    std::vector<float> expected(rows * outputs);
    kernels::group_linear({format, tiles.data(), outputs, columns}, x.data(), columns, rows, expected.data(), outputs,
                          0, outputs);
    const auto y = Call{DType::F32, LinearArithmetic::Any}(matrix.view, x.data(), rows);
    double squares = 0, error = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      squares += expected[i] * expected[i];
      error += (y[i] - expected[i]) * (y[i] - expected[i]);
    }
    EXPECT_LT(std::sqrt(error / squares), 1e-6) << to_string(type);
  }
}

TEST(CudaGroupLinear, ARowHasTheSameBitsInEveryBatch) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const std::size_t outputs = 37, columns = 160;
#else
  const std::size_t outputs = 45, columns = 288;
#endif
  std::mt19937 random(4);
  const std::size_t rows = 100;
  for (const DType dtype : kDTypes) {
    for (const TensorType type : {TensorType::Q4_1, TensorType::Q8_0, TensorType::F16}) {
      cuemu::reset_device({.seed = random()});
      const RandomTensor tensor(type, outputs, columns, random);
      const Matrix matrix({&tensor}, type, kernels::cuda::device_code(type), dtype, columns);
      const auto x = random_values(rows * columns, dtype, random);
      const auto is_part = [&](const std::vector<float>& part, const std::vector<float>& whole, std::size_t first) {
        return std::memcmp(part.data(), &whole[first * outputs], part.size() * sizeof(float)) == 0;
      };
      std::vector<float> wholes[2];
      for (const LinearArithmetic arithmetic : kArithmetics) {
        Call call = {dtype, arithmetic, true};
        auto& whole = wholes[arithmetic == LinearArithmetic::Decode];
        whole = call(matrix.view, x.data(), rows);
        for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 1}, {99, 1}, {7, 9}, {60, 31}}) {
          EXPECT_TRUE(is_part(call(matrix.view, &x[first * columns], count), whole, first))
              << to_string(type) << " " << to_string(dtype) << ", " << count << " rows from " << first << " on";
        }
        call.multiprocessors = 1;
        EXPECT_EQ(call(matrix.view, x.data(), rows), whole);
      }
      EXPECT_EQ(wholes[0] == wholes[1], dtype == DType::F32);
      // Any: prefill for more than 32 rows that are work for all multiprocessors.
      Call any = {dtype, LinearArithmetic::Any, true, 0, 0, 1};
      EXPECT_TRUE(is_part(any(matrix.view, x.data(), 33), wholes[0], 0));
      EXPECT_TRUE(is_part(any(matrix.view, x.data(), 32), wholes[1], 0));
      any.multiprocessors = 3;
      EXPECT_TRUE(is_part(any(matrix.view, x.data(), rows), wholes[1], 0));
    }
  }
}

TEST(CudaGroupLinear, TensorsOfOneMatrixGiveWhatTheyGiveAlone) {
  std::mt19937 random(5);
  const std::size_t columns = 192, rows = 4, counts[] = {45, 21, 90};
  for (const TensorType type : {TensorType::Q4_0, TensorType::Q8_0, TensorType::F32}) {
    for (const LinearArithmetic arithmetic : kArithmetics) {
      cuemu::reset_device({.seed = random()});
      const RandomTensor q(type, counts[0], columns, random), k(type, counts[1], columns, random),
          v(type, counts[2], columns, random);
      const auto x = random_values(rows * columns, DType::BF16, random);
      const Call call = {DType::BF16, arithmetic};
      const WeightCode code = kernels::cuda::device_code(type);
      const Matrix together({&q, &k, &v}, type, code, DType::BF16, columns);
      const auto y = call(together.view, x.data(), rows);
      std::size_t first = 0;
      for (const RandomTensor* tensor : {&q, &k, &v}) {
        const Matrix alone({tensor}, type, code, DType::BF16, columns);
        const auto own = call(alone.view, x.data(), rows);
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t o = 0; o < alone.view.outputs; ++o) {
            ASSERT_EQ(own[r * alone.view.outputs + o], y[r * together.view.outputs + first + o]);
          }
        }
        first += alone.view.outputs;
      }
    }
  }
}

TEST(CudaGroupLinear, NoRowsAreNoWork) {
  cuemu::reset_device({});
  EXPECT_EQ(kernels::cuda::linear({}, nullptr), cudaSuccess);
  EXPECT_EQ(cuemu::device_counts().launches, 0);
}

}  // namespace
}  // namespace tiercel
