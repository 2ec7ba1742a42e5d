#include "kv/content_key.h"

#include <bit>
#include <cstring>
#include <string>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tiercel {

// Keys hash words and tokens as they lie in memory and are compared across machines.
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(ContentKey) == 16 && sizeof(TokenId) == 4);

ContentKey xxh3_key(const ContentKey& parent, std::span<const std::byte> content) {
  // One piece in memory, where it is short, is hashed twice as fast as two given one after the other.
  constexpr std::size_t kMostCopied = 1024;
  XXH128_hash_t hash;
  if (content.size() <= kMostCopied) {
    std::byte bytes[sizeof(parent) + kMostCopied];
    std::memcpy(bytes, &parent, sizeof(parent));
    if (!content.empty()) std::memcpy(bytes + sizeof(parent), content.data(), content.size());
    hash = XXH3_128bits(bytes, sizeof(parent) + content.size());
  } else {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, &parent, sizeof(parent));
    XXH3_128bits_update(&state, content.data(), content.size());
    hash = XXH3_128bits_digest(&state);
  }
  return {.low = hash.low64, .high = hash.high64};
}

ContentKey root_key(KeyFunction function, const Fingerprint& fingerprint, std::string_view salt,
                    std::uint64_t adapter_id) {
  std::string content(sizeof(adapter_id), '\0');
  std::memcpy(content.data(), &adapter_id, sizeof(adapter_id));
  content += salt;
  return function({.low = fingerprint.words[0], .high = fingerprint.words[1]},
                  std::as_bytes(std::span<const char>(content)));
}

ContentKey child_key(KeyFunction function, const ContentKey& parent, std::span<const TokenId> tokens) {
  return function(parent, std::as_bytes(tokens));
}

ContentKey last_key(KeyFunction function, ContentKey key, std::span<const TokenId> tokens, std::size_t block_tokens) {
  for (; !tokens.empty(); tokens = tokens.subspan(block_tokens))
    key = child_key(function, key, tokens.first(block_tokens));
  return key;
}

}  // namespace tiercel
