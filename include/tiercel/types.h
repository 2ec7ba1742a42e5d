// The small types that every part of the API shares.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tiercel {

using TokenId = std::int32_t;

// Index of a KV block in the hot arena, 0 .. capacity - 1.
using BlockId = std::uint32_t;
inline constexpr BlockId kNoBlock = 0xffffffffu;

// Element type of the KV values in a block.
enum class DType : std::uint8_t {
  F32,
  F16,
  BF16,
  Int8,  // codes from -127 to 127, two's complement; the values of one token and head are theirs times a bf16 scale
};
constexpr std::size_t size_of(DType dtype) { return dtype == DType::F32 ? 4 : dtype == DType::Int8 ? 1 : 2; }
std::string_view to_string(DType dtype);  // "f32", "f16", "bf16", "int8"

// Names the computation whose KV is cached: model weights, architecture, dtype, layout and everything else that changes
// a KV value. Blocks of different fingerprints never match.
struct Fingerprint {
  std::array<std::uint64_t, 2> words{};
  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};

// The bytes of one KV block: `[layer][K|V][kv_head][token][head_dim]`, densely packed, the same in every tier. Of Int8
// each head's codes are followed by its scales, one for each token. docs/block_format.md pins it.
struct KvLayout {
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 32;
  DType dtype = DType::F16;

  // Of one token and head. 0: values are their elements.
  constexpr std::size_t scale_bytes() const { return dtype == DType::Int8 ? 2 : 0; }

  // All in elements, which are bytes where there are scales.
  constexpr std::size_t scale_offset() const {
    return std::size_t{block_tokens} * head_dim;
  }                                            // a head's codes to scales
  constexpr std::size_t head_stride() const {  // kv_head to kv_head
    return std::size_t{block_tokens} * (head_dim + scale_bytes());
  }
  constexpr std::size_t value_offset() const { return kv_heads * head_stride(); }  // K of a layer to V of that layer
  constexpr std::size_t layer_stride() const { return 2 * value_offset(); }        // layer to layer
  constexpr std::size_t block_elements() const { return layers * layer_stride(); }
  constexpr std::size_t block_bytes() const { return block_elements() * size_of(dtype); }
  // Block to block in a hot arena in host memory: blocks begin at multiples of 64 bytes there.
  constexpr std::size_t block_stride() const { return (block_bytes() + 63) / 64 * 64; }
  constexpr std::size_t token_bytes() const { return block_bytes() / block_tokens; }
  constexpr std::size_t blocks_for(std::size_t tokens) const { return (tokens + block_tokens - 1) / block_tokens; }
};

// How a block is kept below the hot arena. What is left of its bytes, and what it costs in quality, is measured in
// docs/codecs.md, with the bytes of each.
enum class Codec : std::uint8_t {
  Raw,       // as it is: nothing to decode
  Lossless,  // the same bits back: high bytes entropy-coded with zstd, low bytes as they are where that saves nothing
  Int8,      // 8 bits per value and a scale per 64, then zstd
  Int4,      // 4 bits per value, a scale and a minimum per 32, then zstd
};
std::string_view to_string(Codec codec);  // "raw", "lossless", "int8", "int4"

// How badly cached blocks are wanted. A block has the strongest wish of all leases that used it.
enum class RetentionPriority : std::uint8_t {
  Low,     // goes before all others: a request that will not come back
  Normal,  // as the eviction policy orders it
  High,    // goes when no Normal one is left: a system prompt
};

struct Retention {
  RetentionPriority priority = RetentionPriority::Normal;
  // So long after its last use a block is not found any more and its room is given back. 0: no limit.
  std::uint64_t ttl_ms = 0;
};

}  // namespace tiercel
