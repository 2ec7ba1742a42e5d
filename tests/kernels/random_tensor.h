// A matrix as a GGUF file has it, of random values.
#pragma once

#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "gguf/dequantize.h"

namespace tiercel {

struct RandomTensor {
  RandomTensor(TensorType type, std::size_t rows, std::size_t columns, std::mt19937& random)
      : file(rows * columns / block_elements(type) * block_bytes(type)), exact(rows * columns) {
    const std::size_t size = block_bytes(type);
    std::uniform_real_distribution<float> value(-0.1f, 0.1f);
    // A block of the quantised types begins with its scale, and minimum where it has one.
    const bool has_groups = block_elements(type) > 1;
    const std::size_t halves = type == TensorType::Q4_1 ? 2 : 1;
    for (std::size_t i = 0; has_groups && i < file.size(); ++i) file[i] = static_cast<std::byte>(random());
    for (std::size_t at = 0; at < file.size(); at += size) {
      if (type == TensorType::F32) {
        const float element = value(random);
        std::memcpy(&file[at], &element, sizeof element);
        continue;
      }
      for (std::size_t h = 0; h < halves; ++h) {
        const float element = value(random);
        const std::uint16_t bits = type == TensorType::BF16 ? float_to_bf16(element) : float_to_half(element);
        std::memcpy(&file[at + 2 * h], &bits, sizeof bits);
      }
    }
    dequantize(type, file, exact);
  }

  std::vector<std::byte> file;
  std::vector<float> exact;
};

}  // namespace tiercel
