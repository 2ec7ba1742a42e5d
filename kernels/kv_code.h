// KV kept in fewer bits while it is hot: values as small integers or 8-bit floats, scaled for each token and head. The
// bytes of such a block, and a plain CPU kernel that writes and reads them; kernels/kv_append.cu and
// kernels/decode_attention.cu do the same on a GPU, and those of paged_attention.h with Int8 on a CPU: blocks of
// DType::Int8 (docs/block_format.md) are those of Int8 here.
//
// A block is `[layer][K|V][kv_head]`, and of each head first the codes of all tokens, then their scales:
//   Int8   head_dim bytes, two's complement; one bf16 scale
//   Fp8    head_dim bytes, E4M3; one bf16 scale
//   Int4   head_dim / 2 bytes, value 2i in the low half of byte i, value 2i + 1 in the high half; for either half of
//   the row a bf16
//          scale and a bf16 minimum
// Scales are rounded up and minimums down, as in tier/quantization.h, so that no value is out of a code's range.
// block_tokens is a multiple of 8, which keeps every head at a multiple of 16 bytes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tiercel/types.h"

namespace tiercel::kernels {

enum class KvCode : std::uint8_t {
  Plain,  // elements of the layout's dtype, as docs/block_format.md has them
  Int8,
  Fp8,
  Int4,
};

// The bytes of a block whose dimensions are those of `layout`. All in bytes.
struct CodedKvLayout {
  KvLayout layout;
  KvCode code = KvCode::Plain;

  constexpr std::size_t row_bytes() const {
    if (code == KvCode::Plain) return layout.head_dim * size_of(layout.dtype);
    return code == KvCode::Int4 ? layout.head_dim / 2 : layout.head_dim;
  }
  constexpr std::size_t scale_bytes() const { return code == KvCode::Plain ? 0 : code == KvCode::Int4 ? 8 : 2; }
  constexpr std::size_t scale_offset() const {
    return layout.block_tokens * row_bytes();
  }  // of a head's codes to its scales
  constexpr std::size_t head_stride() const { return layout.block_tokens * (row_bytes() + scale_bytes()); }
  constexpr std::size_t value_offset() const {
    return layout.kv_heads * head_stride();
  }  // K of a layer to V of that layer
  constexpr std::size_t layer_stride() const { return 2 * value_offset(); }
  constexpr std::size_t block_bytes() const { return layout.layers * layer_stride(); }
};

// Where one layer's KV lies.
struct CodedKv {
  std::byte* arena = nullptr;  // block b begins at arena + b * layout.block_bytes()
  CodedKvLayout layout;
  std::size_t layer = 0;
};

// A group whose scale would be less becomes that of scale 0: all values the same.
inline constexpr float kLeastCodeScale = 0x1p-100f;
inline constexpr float kLargestE4M3 = 448.0f;

inline float code_scale_value(std::uint16_t scale) { return std::bit_cast<float>(std::uint32_t{scale} << 16); }
// The scale that is kept of an exact one: a bf16 not below it.
inline std::uint16_t code_scale(float exact) {
  return exact < kLeastCodeScale ? std::uint16_t{0}
                                 : static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(exact) + 0xffffu) >> 16);
}
// What values are multiplied with to become codes.
inline float inverse_code_scale(std::uint16_t scale) { return scale == 0 ? 0.0f : 1.0f / code_scale_value(scale); }
// Of a row of Int8 whose greatest magnitude is this.
inline std::uint16_t int8_code_scale(float most) { return code_scale(most / 127.0f); }

// One row of head_dim finite values of a code other than Plain, to and from its codes and scales.
void encode_row(KvCode code, const float* values, std::size_t head_dim, std::byte* codes, std::byte* scales);
void decode_row(KvCode code, const std::byte* codes, const std::byte* scales, std::size_t head_dim, float* values);

}  // namespace tiercel::kernels
