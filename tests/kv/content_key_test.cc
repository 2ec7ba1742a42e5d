#include "kv/content_key.h"

#include <array>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tiercel {
namespace {

constexpr Fingerprint kModel{.words = {0x0123456789abcdef, 0xfedcba9876543210}};

TEST(ContentKey, IsXxh3OfTheBytesThatTheDocumentNames) {
  // Put together here by hand, byte by byte, as docs/block_format.md says.
  const auto hash = [](const std::vector<unsigned char>& bytes) {
    const XXH128_hash_t value = XXH3_128bits(bytes.data(), bytes.size());
    return ContentKey{.low = value.low64, .high = value.high64};
  };
  const auto append = [](std::vector<unsigned char>& bytes, std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes.push_back(static_cast<unsigned char>(value >> (8 * i)));
  };
  std::vector<unsigned char> root_bytes;
  append(root_bytes, kModel.words[0], 8);
  append(root_bytes, kModel.words[1], 8);
  append(root_bytes, 77, 8);
  for (const char c : std::string("tenant-a")) root_bytes.push_back(static_cast<unsigned char>(c));
  const ContentKey root = root_key(xxh3_key, kModel, "tenant-a", 77);
  EXPECT_EQ(root, hash(root_bytes));

  std::vector<TokenId> tokens;
  std::vector<unsigned char> block_bytes;
  append(block_bytes, root.low, 8);
  append(block_bytes, root.high, 8);
  for (TokenId token = 0; token < 128; ++token) {
    tokens.push_back(token * 391);
    append(block_bytes, static_cast<std::uint64_t>(tokens.back()), 4);
  }
  EXPECT_EQ(child_key(xxh3_key, root, tokens), hash(block_bytes));
}

TEST(ContentKey, ValuesAreTheSameForEver) {
  const std::array<TokenId, 8> tokens = {1, 2, 3, 5, 8, 13, 21, 34};
  const ContentKey root = root_key(xxh3_key, kModel, "", 0);
  const ContentKey child = child_key(xxh3_key, root, tokens);
  EXPECT_EQ(root.low, 0xb436aafae438e203u);
  EXPECT_EQ(root.high, 0x1f56ad5b580d7cd1u);
  EXPECT_EQ(child.low, 0x8550a7478b24a634u);
  EXPECT_EQ(child.high, 0xc28962d1777c18c6u);
}

TEST(ContentKey, EverythingThatMattersChangesIt) {
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  const auto add = [&](const ContentKey& key) { seen.emplace(key.low, key.high); };
  const std::array<TokenId, 4> tokens = {1, 2, 3, 4};
  const std::array<TokenId, 4> swapped = {1, 2, 4, 3};
  Fingerprint other = kModel;
  other.words[1] ^= 1;
  std::size_t count = 0;
  for (const Fingerprint& model : {kModel, other}) {
    for (const char* salt : {"", "a", "b", "ab"}) {
      for (const std::uint64_t adapter : {0u, 1u}) {
        const ContentKey root = root_key(xxh3_key, model, salt, adapter);
        add(root);
        add(child_key(xxh3_key, root, tokens));
        add(child_key(xxh3_key, root, swapped));
        add(child_key(xxh3_key, child_key(xxh3_key, root, tokens), tokens));
        count += 4;
      }
    }
  }
  EXPECT_EQ(seen.size(), count);
}

}  // namespace
}  // namespace tiercel
