#include "tier/memory_store.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

constexpr std::size_t kBytes = 128;

struct Sample {
  explicit Sample(std::uint64_t number) : key{number, ~number}, parent{number - 1, ~(number - 1)} {
    tokens = {static_cast<TokenId>(number), 7, 8};
    bytes.assign(kBytes, static_cast<std::byte>(number));
  }
  TierRecord record() const { return {.key = key, .parent = parent, .tokens = tokens, .bytes = bytes}; }

  BlockKey key, parent;
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;
};

Status write(MemoryStore& store, const Sample& sample) {
  const TierRecord record = sample.record();
  return store.write({&record, 1});
}

// Reads what was asked for; `bytes` is what came.
StatusCode read(MemoryStore& store, const Sample& sample, std::vector<std::byte>* bytes = nullptr) {
  std::vector<std::byte> target(sample.bytes.size());
  TierRead read{.key = sample.key, .parent = sample.parent, .tokens = sample.tokens, .bytes = target};
  store.read({&read, 1});
  if (bytes != nullptr) *bytes = target;
  return read.status.code();
}

std::size_t leading(const MemoryStore& store, std::vector<Sample> samples) {
  std::vector<BlockKey> keys;
  for (const Sample& sample : samples) keys.push_back(sample.key);
  return store.leading(keys);
}

TEST(MemoryStore, GivesBackWhatWasWritten) {
  MemoryStore store(4 * kBytes);
  ASSERT_TRUE(write(store, Sample(1)).ok());
  ASSERT_TRUE(write(store, Sample(2)).ok());
  std::vector<std::byte> bytes;
  EXPECT_EQ(read(store, Sample(1), &bytes), StatusCode::Ok);
  EXPECT_EQ(bytes, Sample(1).bytes);
  EXPECT_EQ(read(store, Sample(3)), StatusCode::NotFound);
  EXPECT_EQ(leading(store, {Sample(1), Sample(2), Sample(3)}), 2u);
  EXPECT_EQ(leading(store, {Sample(3), Sample(1)}), 0u);
  const TierStats stats = store.stats();
  EXPECT_EQ(stats.capacity_blocks, 4u);
  EXPECT_EQ(stats.stored_blocks, 2u);
  EXPECT_EQ(stats.stored_bytes, 2 * kBytes);
  EXPECT_EQ(stats.read_blocks, 1u);
  EXPECT_EQ(stats.missed_blocks, 1u);
}

TEST(MemoryStore, EqualKeysOfOtherContentAreAMiss) {
  MemoryStore store(4 * kBytes);
  ASSERT_TRUE(write(store, Sample(1)).ok());
  Sample other(1);
  other.tokens.back() = 9;
  EXPECT_EQ(read(store, other), StatusCode::NotFound);
  other = Sample(1);
  other.parent.high = 5;
  EXPECT_EQ(read(store, other), StatusCode::NotFound);
  ASSERT_TRUE(write(store, other).ok());  // the newer one stays
  EXPECT_EQ(read(store, other), StatusCode::Ok);
  EXPECT_EQ(read(store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store.stats().stored_blocks, 1u);
}

TEST(MemoryStore, DamagedBytesAreToldAndForgotten) {
  MemoryStore store(4 * kBytes);
  ASSERT_TRUE(write(store, Sample(1)).ok());
  store.stored_bytes(Sample(1).key)[kBytes - 1] ^= std::byte{1};
  EXPECT_EQ(read(store, Sample(1)), StatusCode::Corruption);
  EXPECT_EQ(read(store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store.stats().corrupt_blocks, 1u);
  ASSERT_TRUE(write(store, Sample(1)).ok());
  EXPECT_EQ(read(store, Sample(1)), StatusCode::Ok);
}

TEST(MemoryStore, ALeastRecentlyUsedPathLosesItsEndFirst) {
  MemoryStore store(4 * kBytes);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(store, Sample(i)).ok());
  EXPECT_EQ(leading(store, {Sample(3), Sample(4)}), 2u);
  EXPECT_EQ(leading(store, {Sample(1), Sample(2)}), 2u);
  ASSERT_TRUE(write(store, Sample(10)).ok());
  EXPECT_EQ(leading(store, {Sample(3), Sample(4)}), 1u);
  ASSERT_TRUE(write(store, Sample(11)).ok());
  EXPECT_EQ(leading(store, {Sample(1), Sample(2)}), 1u);
  EXPECT_EQ(store.stats().evicted_blocks, 2u);
}

TEST(MemoryStore, ErasesAndRefusesOtherSizes) {
  MemoryStore store(4 * kBytes);
  ASSERT_TRUE(write(store, Sample(1)).ok());
  Sample large(2);
  large.bytes.resize(2 * kBytes);
  EXPECT_EQ(write(store, large).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(read(store, large), StatusCode::NotFound);
  store.erase(std::vector<BlockKey>{Sample(1).key, Sample(5).key});
  EXPECT_EQ(read(store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store.stats().stored_blocks, 0u);

  MemoryStore tiny(kBytes - 1);
  EXPECT_EQ(write(tiny, Sample(1)).code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(memory_tier(0).status().code(), StatusCode::InvalidArgument);
}

}  // namespace
}  // namespace tiercel
