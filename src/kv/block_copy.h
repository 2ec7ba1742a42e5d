// Copy-on-write of a KV block's beginning.
#pragma once

#include <cstddef>
#include <cstring>

#include "tiercel/types.h"

namespace tiercel {

// K and V of the first `tokens` tokens, of all layers and heads.
inline void copy_leading_tokens(const KvLayout& layout, const std::byte* from, std::byte* to, std::size_t tokens) {
  const std::size_t row_bytes = layout.head_stride() * size_of(layout.dtype);
  const std::size_t used_bytes = tokens * layout.head_dim * size_of(layout.dtype);
  for (std::size_t row = 0; row < std::size_t{2} * layout.layers * layout.kv_heads; ++row) {
    std::memcpy(to + row * row_bytes, from + row * row_bytes, used_bytes);
  }
}

}  // namespace tiercel
