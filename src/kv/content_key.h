// The name of a KV block: a 128-bit hash of everything its bytes depend on.
//
//   root key  = hash(fingerprint, adapter id and salt)
//   block key = hash(key of the block before it, or root key; the block's tokens)
//
// docs/block_format.md pins the hashed bytes. Equal content has equal keys in every process on every machine. The
// reverse is only very likely, so whoever finds a block by its key compares what it stands for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tiercel/types.h"

namespace tiercel {

struct ContentKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend bool operator==(const ContentKey&, const ContentKey&) = default;
};

// How a key is made from the key it follows. A seam: tests replace it by one that always collides.
using KeyFunction = ContentKey (*)(const ContentKey& parent, std::span<const std::byte> content);

// XXH3, 128 bits, seed 0, over the parent's 16 bytes (low word first) and then the content.
ContentKey xxh3_key(const ContentKey& parent, std::span<const std::byte> content);

ContentKey root_key(KeyFunction function, const Fingerprint& fingerprint, std::string_view salt,
                    std::uint64_t adapter_id);
ContentKey child_key(KeyFunction function, const ContentKey& parent, std::span<const TokenId> tokens);

// The key of the last of `tokens`, whole blocks that follow `key` one after the other; `key` itself where there are
// none.
ContentKey last_key(KeyFunction function, ContentKey key, std::span<const TokenId> tokens, std::size_t block_tokens);

}  // namespace tiercel
