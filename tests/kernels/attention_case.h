// What attention kernels are tested on.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gguf/dequantize.h"
#include "kernels/group_linear.h"
#include "kernels/kv_code.h"
#include "kernels/paged_attention.h"
#include "tests/kernels/aligned_floats.h"

namespace tiercel {

using kernels::AttentionKernel;
using kernels::AttentionStyle;

// A sequence whose KV lies in blocks scattered over an arena that is full of large garbage elsewhere.
struct AttentionCase {
  AttentionCase(DType dtype, std::size_t head_dim, std::size_t kv_heads, std::size_t group_, std::size_t block_tokens,
                std::size_t length_, unsigned seed)
      : length(length_), group(group_), random(seed) {
    layout = {.layers = 3,
              .kv_heads = static_cast<std::uint32_t>(kv_heads),
              .head_dim = static_cast<std::uint32_t>(head_dim),
              .block_tokens = static_cast<std::uint32_t>(block_tokens),
              .dtype = dtype};
    const std::size_t blocks = (length + block_tokens - 1) / block_tokens, arena_blocks = blocks + 3;
    arena.resize(arena_blocks * layout.block_stride() + 64);
    base = arena.data() + (64 - reinterpret_cast<std::uintptr_t>(arena.data()) % 64) % 64;
    // Finite as an element of every type, no number as a scale.
    std::fill(arena.begin(), arena.end(), dtype == DType::Int8 ? std::byte{0xff} : std::byte{0x47});
    table.resize(arena_blocks);
    std::iota(table.begin(), table.end(), 0u);
    std::shuffle(table.begin(), table.end(), random);
    table.resize(blocks);

    std::normal_distribution<float> normal;
    const std::size_t width = kv_heads * head_dim;
    keys.resize(length * width);
    values.resize(length * width);
    for (float& k : keys) k = stored(normal(random));
    for (float& v : values) v = stored(normal(random));
    if (dtype == DType::Int8) {
      for (std::size_t row = 0; row < length * kv_heads; ++row) {
        // Of magnitudes that differ from row to row.
        for (float* at : {&keys[row * head_dim], &values[row * head_dim]}) {
          const float magnitude = std::exp2(-std::abs(normal(random)));
          for (std::size_t i = 0; i < head_dim; ++i) at[i] *= magnitude;
          const std::vector<float> exact(at, at + head_dim);
          std::vector<std::byte> codes(head_dim + 2);
          kernels::encode_row(kernels::KvCode::Int8, at, head_dim, codes.data(), codes.data() + head_dim);
          kernels::decode_row(kernels::KvCode::Int8, codes.data(), codes.data() + head_dim, head_dim, at);
          if (at == &keys[row * head_dim]) {
            exact_keys.insert(exact_keys.end(), exact.begin(), exact.end());
          } else {
            exact_values.insert(exact_values.end(), exact.begin(), exact.end());
          }
        }
      }
    } else {
      exact_keys = keys;
      exact_values = values;
    }
    for (std::size_t t = 0; t < length; ++t) append(t);
    q_stride = kv_heads * group * head_dim + 5;
    q.resize(length * q_stride);
    for (float& value : q) value = normal(random);
  }

  void append(std::size_t position) {
    const std::size_t at = position * layout.kv_heads * layout.head_dim;
    kernels::append_kv({base, layout, 1}, table[position / layout.block_tokens], position % layout.block_tokens,
                       &exact_keys[at], &exact_values[at]);
  }
  // The same key, and the same value, in all dims: exact in every type.
  void set(std::size_t position, float key, float value) {
    const std::size_t width = layout.kv_heads * layout.head_dim;
    for (auto* all : {&keys, &exact_keys}) std::fill_n(all->begin() + position * width, width, key);
    for (auto* all : {&values, &exact_values}) std::fill_n(all->begin() + position * width, width, value);
    append(position);
  }

  // The value that comes back from a block.
  float stored(float value) const {
    if (layout.dtype == DType::F16) return half_to_float(float_to_half(value));
    if (layout.dtype == DType::BF16) return bf16_to_float(float_to_bf16(value));
    return value;
  }

  kernels::AttentionArgs args(std::size_t first, std::size_t tokens, AttentionStyle style, float* out) const {
    return {.kv = {base, layout, 1},
            .block_table = table.data(),
            .first_position = first,
            .tokens = tokens,
            .group = group,
            .q = q.data() + first * q_stride,
            .q_stride = q_stride,
            .out = out + first * q_stride,
            .out_stride = q_stride,
            .scale = scale(),
            .style = style};
  }

  // `in_sections`: one call for each section of the context, the last first.
  std::vector<float> run(std::size_t first, std::size_t tokens, AttentionStyle style,
                         const AttentionKernel& kernel = kernels::kAttention, bool in_sections = false) {
    std::vector<float> out(length * q_stride, 77.0f);
    const std::size_t sections = kernel.sections(layout, first + tokens);
    const AlignedFloats scratch(kernel.scratch_floats(layout, tokens, group));
    const AlignedFloats states(sections * kernel.state_floats(layout, tokens, group));
    kernels::AttentionArgs call = args(first, tokens, style, out.data());
    for (call.kv_head = 0; call.kv_head < layout.kv_heads; ++call.kv_head) {
      if (!in_sections) {
        kernel.attend(call, scratch.start);
        continue;
      }
      call.states = states.start;
      for (call.section = sections; call.section-- > 0;) kernel.attend(call, scratch.start);
      kernel.merge_sections(call);
    }
    return out;
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(layout.head_dim)); }

  std::vector<double> reference(std::size_t position, std::size_t head) const {
    const std::size_t dim = layout.head_dim, width = layout.kv_heads * dim, kv = head / group * dim;
    std::vector<double> scores(position + 1), out(dim, 0.0);
    for (std::size_t t = 0; t <= position; ++t) {
      for (std::size_t i = 0; i < dim; ++i)
        scores[t] += double{q[position * q_stride + head * dim + i]} * keys[t * width + kv + i];
      scores[t] *= scale();
    }
    const double top = *std::ranges::max_element(scores);
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (std::size_t t = 0; t <= position; ++t) {
      for (std::size_t i = 0; i < dim; ++i) out[i] += scores[t] / total * values[t * width + kv + i];
    }
    return out;
  }

  std::size_t length, group, q_stride = 0;
  std::mt19937 random;
  KvLayout layout;
  std::vector<std::byte> arena;
  std::byte* base = nullptr;
  std::vector<BlockId> table;
  std::vector<float> exact_keys, exact_values;  // as they are given
  std::vector<float> keys, values, q;           // as they come back
};

}  // namespace tiercel
