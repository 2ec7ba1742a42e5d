// A stand-in for a model runner. Like real KV, what it writes for a token depends on every token before it, the salt
// and the adapter, so bytes of another prefix, scope or position never pass for the right ones. One 8-byte word per
// [layer][K|V][head][token], and where there is a scale 2 bytes of it: for layouts whose head_dim * element size is 8.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "tiercel/kv_cache.h"

namespace tiercel {

inline std::uint64_t mix(std::uint64_t state, std::uint64_t value) {
  state = (state ^ value) * 0x9e3779b97f4a7c15u;
  return state ^ (state >> 29);
}

// What stands for the KV of the last of `tokens`, given all of them.
inline std::uint64_t kv_word(std::span<const TokenId> tokens, std::string_view salt, std::uint64_t adapter_id) {
  std::uint64_t state = mix(1, adapter_id);
  for (const char c : salt) state = mix(state, static_cast<unsigned char>(c) + 1u);
  for (const TokenId token : tokens) state = mix(state, static_cast<std::uint64_t>(token) + 1000);
  return state;
}

// Calls visit(address, bytes, row) for what the block's token `position` has in every [layer][K|V][head] row.
template <class Byte, class Visit>
void for_each_slot(const KvLayout& layout, Byte* block, std::size_t position, Visit visit) {
  const std::size_t token_bytes = layout.head_dim * size_of(layout.dtype);
  for (std::size_t row = 0; row < std::size_t{2} * layout.layers * layout.kv_heads; ++row) {
    Byte* const head = block + row * layout.head_stride() * size_of(layout.dtype);
    visit(head + position * token_bytes, sizeof(std::uint64_t), row);
    if (layout.scale_bytes() == 0) continue;
    visit(head + layout.scale_offset() + position * layout.scale_bytes(), layout.scale_bytes(), row);
  }
}

inline void write_kv(const KvCache& cache, std::span<const BlockId> table, std::size_t position, std::uint64_t word) {
  const std::size_t block_tokens = cache.layout().block_tokens;
  std::byte* const block = cache.block(table[position / block_tokens]);
  for_each_slot(cache.layout(), block, position % block_tokens,
                [&](std::byte* slot, std::size_t bytes, std::size_t row) {
                  const std::uint64_t value = mix(word, row);
                  std::memcpy(slot, &value, bytes);
                });
}

// Whether the block's token `position` has the KV of `word`.
inline bool holds_kv(const KvLayout& layout, const std::byte* block, std::size_t position, std::uint64_t word) {
  bool same = true;
  for_each_slot(layout, block, position, [&](const std::byte* slot, std::size_t bytes, std::size_t row) {
    const std::uint64_t value = mix(word, row);
    same = same && std::memcmp(slot, &value, bytes) == 0;
  });
  return same;
}

inline bool holds_kv(const KvCache& cache, std::span<const BlockId> table, std::size_t position, std::uint64_t word) {
  const std::size_t block_tokens = cache.layout().block_tokens;
  return holds_kv(cache.layout(), cache.block(table[position / block_tokens]), position % block_tokens, word);
}

}  // namespace tiercel
