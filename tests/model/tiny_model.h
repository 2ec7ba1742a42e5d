// Small random models of every variant that the architecture allows, as GGUF bytes.
#pragma once

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gguf/dequantize.h"
#include "tests/gguf/gguf_builder.h"

namespace tiercel {

struct Variant {
  const char* name;
  std::uint32_t heads = 4, kv_heads = 2, head_dim = 16, rotated = 16, layers = 2, feed_forward = 96, vocabulary = 50;
  double rope_base = 10000;
  double linear_factor = 1;
  bool rope_divisors = false;
  bool own_head = false;
  TensorType type = TensorType::F32;

  std::uint32_t hidden() const { return 64; }
};

using Matrix = std::vector<float>;  // [rows][columns]

struct TinyModel {
  explicit TinyModel(const Variant& v) : variant(v) {
    file.text("general.architecture", "llama").number("llama.block_count", GgufKind::U32, v.layers);
    file.number("llama.context_length", GgufKind::U32, 512u)
        .number("llama.embedding_length", GgufKind::U32, v.hidden());
    file.number("llama.feed_forward_length", GgufKind::U32, v.feed_forward);
    file.number("llama.attention.head_count", GgufKind::U32, v.heads)
        .number("llama.attention.head_count_kv", GgufKind::U32, v.kv_heads);
    file.number("llama.attention.key_length", GgufKind::U32, v.head_dim)
        .number("llama.attention.value_length", GgufKind::U32, v.head_dim);
    file.number("llama.rope.dimension_count", GgufKind::U32, v.rotated)
        .number("llama.rope.freq_base", GgufKind::F32, static_cast<float>(v.rope_base));
    file.number("llama.attention.layer_norm_rms_epsilon", GgufKind::F32, 1e-5f);
    if (v.linear_factor != 1) {
      file.text("llama.rope.scaling.type", "linear")
          .number("llama.rope.scaling.factor", GgufKind::F32, static_cast<float>(v.linear_factor));
    }
    add("token_embd.weight", v.vocabulary, v.hidden(), 1.0f);
    for (std::uint32_t i = 0; i < v.layers; ++i) {
      const std::string p = "blk." + std::to_string(i) + ".";
      add_vector(p + "attn_norm.weight", v.hidden(), 0.5f, 1.5f);
      add(p + "attn_q.weight", v.heads * v.head_dim, v.hidden(), 0.3f);
      add(p + "attn_k.weight", v.kv_heads * v.head_dim, v.hidden(), 0.3f);
      add(p + "attn_v.weight", v.kv_heads * v.head_dim, v.hidden(), 0.3f);
      add(p + "attn_output.weight", v.hidden(), v.heads * v.head_dim, 0.3f);
      add_vector(p + "ffn_norm.weight", v.hidden(), 0.5f, 1.5f);
      add(p + "ffn_gate.weight", v.feed_forward, v.hidden(), 0.3f);
      add(p + "ffn_up.weight", v.feed_forward, v.hidden(), 0.3f);
      add(p + "ffn_down.weight", v.hidden(), v.feed_forward, 0.3f);
    }
    add_vector("output_norm.weight", v.hidden(), 0.5f, 1.5f);
    if (v.own_head) add("output.weight", v.vocabulary, v.hidden(), 0.3f);
    if (v.rope_divisors) add_vector("rope_freqs.weight", v.rotated / 2, 1.0f, 8.0f);
    bytes = file.build();
  }

  void add_vector(const std::string& name, std::size_t size, float low, float high) {
    std::uniform_real_distribution<float> uniform(low, high);
    Matrix values(size);
    for (float& value : values) value = uniform(random);
    file.tensor(name, {size}, TensorType::F32, std::string(reinterpret_cast<const char*>(values.data()), size * 4));
    tensors[name] = values;
  }
  void add(const std::string& name, std::size_t rows, std::size_t columns, float scale) {
    std::uniform_real_distribution<float> uniform(-scale, scale);
    std::string data;
    const std::size_t blocks = rows * columns / block_elements(variant.type);
    for (std::size_t b = 0; b < blocks; ++b) {
      const float value = uniform(random);
      std::string block(block_bytes(variant.type), '\0');
      for (char& byte : block) byte = static_cast<char>(random());
      const std::uint16_t half = float_to_half(value), divided = float_to_half(value / 128),
                          bf16 = float_to_bf16(value);
      switch (variant.type) {
        case TensorType::F32: std::memcpy(block.data(), &value, 4); break;
        case TensorType::F16: std::memcpy(block.data(), &half, 2); break;
        case TensorType::BF16: std::memcpy(block.data(), &bf16, 2); break;
        case TensorType::Q4_1: std::memcpy(block.data() + 2, &divided, 2); [[fallthrough]];
        default: std::memcpy(block.data(), &divided, 2);
      }
      data += block;
    }
    file.tensor(name, {columns, rows}, variant.type, data);
    Matrix values(rows * columns);
    dequantize(variant.type, as_bytes(data), values);
    tensors[name] = values;
  }

  Variant variant;
  std::mt19937 random{42};
  GgufBuilder file;
  std::map<std::string, Matrix> tensors;
  std::string bytes;
};

}  // namespace tiercel
