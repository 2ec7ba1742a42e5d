// RMSNorm, SwiGLU and block copies on the emulated device, against the CPU kernels and the bytes themselves.
#include "kernels/row_kernels_cuda.h"

#include <cstring>

#include <gtest/gtest.h>

#include "kernels/block_copy_cuda.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "tests/cuemu/device.h"
#include "tests/kernels/cuda_sequences.h"

namespace tiercel {
namespace {

constexpr DType kTypes[] = {DType::F32, DType::F16, DType::BF16};
constexpr std::size_t kWidths[] = {8, 64, 576, 2056};

TEST(CudaRmsNorm, AddsTheResidualAndNormalisesEachRow) {
  std::mt19937 random(1);
  for (const DType dtype : kTypes) {
    for (const std::size_t width : kWidths) {
      for (const bool with_residual : {false, true}) {
        cuemu::reset_device({.seed = random()});
        const std::size_t rows = 3;
        auto x = random_values(rows * width, dtype, random), residual = random_values(rows * width, dtype, random);
        const auto weight = random_values(width, DType::F32, random);
        const DeviceMemory<std::byte> device_x(to_elements(x, dtype)), device_residual(to_elements(residual, dtype));
        const DeviceMemory<float> device_weight(weight);
        const DeviceMemory<std::byte> out(rows * width * size_of(dtype));
        ASSERT_EQ(kernels::cuda::rms_norm({.dtype = dtype,
                                           .x = device_x.data(),
                                           .residual = with_residual ? device_residual.data() : nullptr,
                                           .weight = device_weight.data(),
                                           .out = out.data(),
                                           .epsilon = 1e-5f,
                                           .rows = rows,
                                           .width = width},
                                          nullptr),
                  cudaSuccess);
        if (with_residual) {  // rounded to the type before the norm is taken
          for (std::size_t i = 0; i < x.size(); ++i) x[i] += residual[i];
          x = to_floats(to_elements(x, dtype), dtype);
        }
        std::vector<float> expected(rows * width);
        kernels::rms_norm(x.data(), nullptr, weight.data(), 1e-5f, rows, width, expected.data());
        ASSERT_EQ(to_floats(device_x.read(), dtype), x);
        const auto got = to_floats(out.read(), dtype);
        for (std::size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], expected[i], std::abs(expected[i]) * (2e-6 + 1.01 * rounding_of(dtype)) + 1e-7)
              << to_string(dtype) << " width " << width << " element " << i;
        }
      }
    }
  }
}

TEST(CudaSwiglu, GatesEachRowByItsOwnHalf) {
  std::mt19937 random(2);
  for (const DType dtype : kTypes) {
    for (const std::size_t width : kWidths) {
      cuemu::reset_device({.seed = random()});
      const std::size_t rows = 3;
      auto gate_up = random_values(rows * 2 * width, dtype, random);
      gate_up[0] = -120;  // whose exponential overflows
      gate_up[1] = 120;
      const DeviceMemory<std::byte> device_gate_up(to_elements(gate_up, dtype)), out(rows * width * size_of(dtype));
      ASSERT_EQ(kernels::cuda::swiglu({dtype, device_gate_up.data(), out.data(), rows, width}, nullptr), cudaSuccess);
      std::vector<float> expected(rows * width);
      kernels::swiglu(gate_up.data(), rows, width, expected.data(), width);
      const auto got = to_floats(out.read(), dtype);
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], std::abs(expected[i]) * (1e-5 + 1.01 * rounding_of(dtype)) + 1e-7)
            << to_string(dtype) << " width " << width << " element " << i;
      }
    }
  }
}

TEST(CudaBlockCopy, MovesWholeBlocksAndNothingElse) {
  std::mt19937 random(3);
  for (const std::size_t bytes : {16u, 240u, 4096u, 16384u, 50000u}) {
    cuemu::reset_device({.seed = random()});
    const std::size_t blocks = 12, count = 5;
    std::vector<std::byte> memory(blocks * bytes);
    for (std::byte& byte : memory) byte = static_cast<std::byte>(random());
    const DeviceMemory<std::byte> arena(memory);
    std::vector<std::size_t> ids(blocks);
    std::iota(ids.begin(), ids.end(), 0u);
    std::shuffle(ids.begin(), ids.end(), random);
    std::vector<kernels::cuda::BlockCopy> copies;
    for (std::size_t i = 0; i < count; ++i) {
      copies.push_back({arena.data() + ids[2 * i] * bytes, arena.data() + ids[2 * i + 1] * bytes});
      std::memcpy(&memory[ids[2 * i + 1] * bytes], &memory[ids[2 * i] * bytes], bytes);
    }
    const DeviceMemory<kernels::cuda::BlockCopy> device_copies(copies);
    ASSERT_EQ(kernels::cuda::copy_blocks(device_copies.data(), count, bytes, nullptr), cudaSuccess);
    ASSERT_EQ(arena.read(), memory) << bytes << " bytes";
    ASSERT_EQ(kernels::cuda::copy_blocks(device_copies.data(), 0, bytes, nullptr), cudaSuccess);
  }
}

}  // namespace
}  // namespace tiercel
