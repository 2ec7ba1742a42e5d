// Sequences of random lengths whose KV lies in blocks scattered over an arena that is full of large garbage elsewhere;
// on the emulated device, and in host memory for the CPU kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gguf/dequantize.h"
#include "kernels/paged_attention.h"
#include "tests/cuemu/device_memory.h"
#include "tests/kernels/aligned_floats.h"
#include "tiercel/types.h"

namespace tiercel {

// An array of elements of one type, as bytes.
inline std::vector<std::byte> to_elements(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::F32) {
      std::memcpy(&bytes[4 * i], &values[i], 4);
    } else {
      const std::uint16_t bits = dtype == DType::F16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
      std::memcpy(&bytes[2 * i], &bits, 2);
    }
  }
  return bytes;
}

inline std::vector<float> to_floats(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::F32) {
      std::memcpy(&values[i], &bytes[4 * i], 4);
    } else {
      std::uint16_t bits;
      std::memcpy(&bits, &bytes[2 * i], 2);
      values[i] = dtype == DType::F16 ? half_to_float(bits) : bf16_to_float(bits);
    }
  }
  return values;
}

// Half the distance between neighbouring values around 1.
inline float rounding_of(DType dtype) {
  return dtype == DType::F32 ? 0x1p-24f : dtype == DType::F16 ? 0x1p-11f : 0x1p-8f;
}

inline std::vector<float> random_values(std::size_t count, DType dtype, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return to_floats(to_elements(values, dtype), dtype);
}

struct CudaSequences {
  // KV of `lengths[i]` tokens for each sequence i.
  CudaSequences(const KvLayout& layout_, std::size_t layer, const std::vector<std::uint32_t>& lengths_,
                std::mt19937& random)
      : layout(layout_), lengths(lengths_) {
    std::size_t blocks = 2;
    for (const std::uint32_t length : lengths) {
      table_stride = std::max(table_stride, layout.blocks_for(length));
      blocks += layout.blocks_for(length);
    }
    arena.assign(blocks * layout.block_bytes(), std::byte{0x47});  // finite in every type
    std::vector<BlockId> ids(blocks);
    std::iota(ids.begin(), ids.end(), 0u);
    std::shuffle(ids.begin(), ids.end(), random);
    tables.assign(lengths.size() * table_stride, kNoBlock);
    std::normal_distribution<float> normal;
    std::vector<float> k(layout.kv_heads * layout.head_dim), v(k.size());
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::size_t b = 0; b < layout.blocks_for(lengths[s]); ++b) {
        tables[s * table_stride + b] = ids.back();
        ids.pop_back();
      }
      for (std::uint32_t t = 0; t < lengths[s]; ++t) {
        for (float& value : k) value = normal(random);
        for (float& value : v) value = normal(random);
        kernels::append_kv({arena.data(), layout, layer}, tables[s * table_stride + t / layout.block_tokens],
                           t % layout.block_tokens, k.data(), v.data());
      }
    }
  }

  // Attention of the last `queries` tokens of a sequence by the CPU kernel; q and the result are [queries][q_stride].
  std::vector<float> attend(std::size_t layer, std::size_t sequence, std::size_t queries, std::size_t group,
                            const float* q, std::size_t q_stride, float scale) {
    std::vector<float> out(queries * q_stride);
    const AlignedFloats scratch(kernels::kAttention.scratch_floats(layout, queries, group));
    for (std::size_t head = 0; head < layout.kv_heads; ++head) {
      kernels::kAttention.attend({.kv = {arena.data(), layout, layer},
                                  .block_table = &tables[sequence * table_stride],
                                  .first_position = lengths[sequence] - queries,
                                  .tokens = queries,
                                  .kv_head = head,
                                  .group = group,
                                  .q = q,
                                  .q_stride = q_stride,
                                  .out = out.data(),
                                  .out_stride = q_stride,
                                  .scale = scale},
                                 scratch.start);
    }
    return out;
  }

  KvLayout layout;
  std::vector<std::uint32_t> lengths;
  std::size_t table_stride = 0;
  std::vector<std::byte> arena;
  std::vector<BlockId> tables;
};

}  // namespace tiercel
