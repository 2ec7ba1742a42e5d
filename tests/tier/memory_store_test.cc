#include "tier/memory_store.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <list>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tier/kv_values.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 4, .dtype = DType::F16};
constexpr std::size_t kBytes = kLayout.block_bytes();

struct Sample {
  explicit Sample(std::uint64_t number) : key{number, ~number}, parent{number - 1, ~(number - 1)} {
    tokens = {static_cast<TokenId>(number), 7, 8, 9};
    bytes.assign(kBytes, static_cast<std::byte>(number));
  }
  TierRecord record() const {
    return {.key = key,
            .parent = parent,
            .tenant = tenant,
            .adapter_id = adapter_id,
            .tokens = tokens,
            .bytes = bytes,
            .position = position,
            .copyable = copyable};
  }

  BlockKey key, parent;
  std::uint64_t tenant = 0;
  std::uint64_t adapter_id = 0;
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;
  std::uint32_t position = 0;
  bool copyable = true;
};

std::size_t room_for(std::size_t blocks, const KvLayout& layout = kLayout) {
  return blocks * MemoryStore::taken_bytes(layout.block_bytes(), layout);
}

// Raw and open.
std::unique_ptr<MemoryStore> store_for(std::size_t blocks) {
  auto store =
      std::make_unique<MemoryStore>(MemoryTierOptions{.capacity_bytes = room_for(blocks), .codec = Codec::Raw});
  EXPECT_TRUE(store->open(kLayout, {}).ok());
  return store;
}

Status write(TierStore& store, const Sample& sample) {
  const TierRecord record = sample.record();
  return store.write({&record, 1});
}

// Reads what was asked for; `bytes` is what came.
StatusCode read(TierStore& store, const Sample& sample, std::vector<std::byte>* bytes = nullptr,
                bool* copyable = nullptr) {
  std::vector<std::byte> target(sample.bytes.size());
  TierRead read{.key = sample.key,
                .parent = sample.parent,
                .tenant = sample.tenant,
                .adapter_id = sample.adapter_id,
                .tokens = sample.tokens,
                .bytes = target};
  store.read({&read, 1});
  if (bytes != nullptr) *bytes = target;
  if (copyable != nullptr) *copyable = read.copyable;
  return read.status.code();
}

std::size_t leading(const TierStore& store, const std::vector<Sample>& samples) {
  std::vector<BlockKey> keys;
  for (const Sample& sample : samples) keys.push_back(sample.key);
  return store.leading(keys);
}

// Of two tenants, or two adapters of one, whose keys collide neither gets the other's KV.
TEST(MemoryStore, AnotherTenantsOrAdaptersBlockIsNotFound) {
  const auto store = store_for(4);
  Sample sample(1);
  ASSERT_TRUE(write(*store, sample).ok());
  ++sample.tenant;
  EXPECT_EQ(read(*store, sample), StatusCode::NotFound);
  --sample.tenant;
  ++sample.adapter_id;
  EXPECT_EQ(read(*store, sample), StatusCode::NotFound);
  ASSERT_TRUE(write(*store, sample).ok()) << "the newer one";
  EXPECT_EQ(read(*store, sample), StatusCode::Ok);
  --sample.adapter_id;
  EXPECT_EQ(read(*store, sample), StatusCode::NotFound);
}

TEST(MemoryStore, GivesBackWhatWasWritten) {
  const auto store = store_for(4);
  Sample second(2);
  second.copyable = false;
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  ASSERT_TRUE(write(*store, second).ok());
  std::vector<std::byte> bytes;
  bool copyable = false;
  EXPECT_EQ(read(*store, Sample(1), &bytes, &copyable), StatusCode::Ok);
  EXPECT_EQ(bytes, Sample(1).bytes);
  EXPECT_TRUE(copyable);
  EXPECT_EQ(read(*store, second, &bytes, &copyable), StatusCode::Ok);
  EXPECT_FALSE(copyable);
  EXPECT_EQ(read(*store, Sample(3)), StatusCode::NotFound);
  EXPECT_EQ(leading(*store, {Sample(1), Sample(2), Sample(3)}), 2u);
  EXPECT_EQ(leading(*store, {Sample(3), Sample(1)}), 0u);
  const TierStats stats = store->stats();
  EXPECT_EQ(stats.capacity_bytes, room_for(4));
  EXPECT_EQ(stats.stored_blocks, 2u);
  EXPECT_EQ(stats.stored_bytes, room_for(2));
  EXPECT_EQ(stats.read_blocks, 2u);
  EXPECT_EQ(stats.read_bytes, 2 * kBytes);
  EXPECT_EQ(stats.missed_blocks, 1u);
  EXPECT_EQ(stats.written_blocks, 2u);
  EXPECT_EQ(stats.written_bytes, 2 * kBytes);
}

TEST(MemoryStore, EqualKeysOfOtherContentAreAMiss) {
  const auto store = store_for(4);
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  Sample other(1);
  other.tokens.back() = 1;
  EXPECT_EQ(read(*store, other), StatusCode::NotFound);
  other = Sample(1);
  other.parent.high = 5;
  EXPECT_EQ(read(*store, other), StatusCode::NotFound);
  ASSERT_TRUE(write(*store, other).ok());  // the newer one stays
  EXPECT_EQ(read(*store, other), StatusCode::Ok);
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store->stats().stored_blocks, 1u);
}

TEST(MemoryStore, BlocksAlreadyHereAreKept) {
  const auto store = store_for(4);
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  Sample again(1);
  again.bytes.assign(kBytes, std::byte{99});
  ASSERT_TRUE(write(*store, again).ok());
  std::vector<std::byte> bytes;
  EXPECT_EQ(read(*store, Sample(1), &bytes), StatusCode::Ok);
  EXPECT_EQ(bytes, Sample(1).bytes);
  EXPECT_EQ(store->stats().written_blocks, 1u);
}

TEST(MemoryStore, DamagedBytesAreToldAndForgotten) {
  const auto store = store_for(4);
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  store->stored_bytes(Sample(1).key)[kBytes - 1] ^= std::byte{1};
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::Corruption);
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store->stats().corrupt_blocks, 1u);
  EXPECT_EQ(store->stats().stored_bytes, 0u);
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::Ok);
}

TEST(MemoryStore, ALeastRecentlyUsedPathLosesItsEndFirst) {
  const auto store = store_for(4);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(*store, Sample(i)).ok());
  EXPECT_EQ(leading(*store, {Sample(3), Sample(4)}), 2u);
  EXPECT_EQ(leading(*store, {Sample(1), Sample(2)}), 2u);
  ASSERT_TRUE(write(*store, Sample(10)).ok());
  EXPECT_EQ(leading(*store, {Sample(3), Sample(4)}), 1u);
  ASSERT_TRUE(write(*store, Sample(11)).ok());
  EXPECT_EQ(leading(*store, {Sample(1), Sample(2)}), 1u);
  EXPECT_EQ(store->stats().evicted_blocks, 2u);
}

TEST(MemoryStore, ErasesPathsTenantsAndAll) {
  const auto store = store_for(20);
  for (std::uint64_t i = 1; i <= 9; ++i) {
    Sample sample(i);
    sample.tenant = i % 2;
    ASSERT_TRUE(write(*store, sample).ok());
  }
  // A second block behind 5, with another first token.
  Sample sibling(60);
  sibling.parent = Sample(5).key;
  ASSERT_TRUE(write(*store, sibling).ok());
  ASSERT_TRUE(store->erase(Sample(6).parent, std::vector<TokenId>{6, 7}).ok());
  EXPECT_EQ(leading(*store, {Sample(1), Sample(2), Sample(3), Sample(4), Sample(5), Sample(6)}), 5u);
  for (const std::uint64_t gone : {6, 7, 8, 9}) EXPECT_EQ(read(*store, Sample(gone)), StatusCode::NotFound);
  EXPECT_EQ(read(*store, sibling), StatusCode::Ok);
  EXPECT_EQ(store->stats().erased_blocks, 4u);
  ASSERT_TRUE(store->erase_tenant(1).ok());
  for (std::uint64_t i = 1; i <= 5; ++i) {
    EXPECT_EQ(read(*store, Sample(i)), i % 2 == 1 ? StatusCode::NotFound : StatusCode::Ok);
  }
  ASSERT_TRUE(store->erase(Sample(2).parent, {}).ok());  // any tokens; 3 is gone, so 4 is nobody's child
  EXPECT_EQ(read(*store, Sample(2)), StatusCode::NotFound);
  EXPECT_EQ(read(*store, Sample(4)), StatusCode::Ok);
  ASSERT_TRUE(store->erase_all().ok());
  EXPECT_EQ(store->stats().stored_blocks, 0u);
  EXPECT_EQ(store->stats().stored_bytes, 0u);
  EXPECT_EQ(store->stats().erased_blocks, 10u);
}

TEST(MemoryStore, RefusesOtherSizesAndTooLittleRoom) {
  const auto store = store_for(4);
  Sample large(2);
  large.bytes.resize(2 * kBytes);
  EXPECT_EQ(write(*store, large).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(read(*store, large), StatusCode::NotFound);

  MemoryStore tiny({.capacity_bytes = room_for(1) - 1, .codec = Codec::Raw});
  EXPECT_EQ(tiny.open(kLayout, {}).code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(write(tiny, Sample(1)).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(read(tiny, Sample(1)), StatusCode::NotFound);
  EXPECT_TRUE(tiny.erase_all().ok());
  EXPECT_EQ(memory_tier({}).status().code(), StatusCode::InvalidArgument);
  const auto empty = memory_tier({.capacity_bytes = 1 << 20}).value();
  EXPECT_EQ(empty->open({}, {}).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(empty->name(), "memory");
  EXPECT_FALSE(empty->is_durable());
}

TEST(MemoryStore, ABlockCountsOnlyBehindAllBeforeIt) {
  const auto store = store_for(8);
  const auto at = [](std::uint64_t number) {
    Sample sample(number);
    sample.position = static_cast<std::uint32_t>(number - 1);
    return sample;
  };
  for (const std::uint64_t number : {2u, 3u}) ASSERT_TRUE(write(*store, at(number)).ok());
  EXPECT_EQ(read(*store, at(3)), StatusCode::NotFound) << "the first is missing";
  ASSERT_TRUE(write(*store, at(1)).ok());
  EXPECT_EQ(read(*store, at(2)), StatusCode::NotFound) << "it is older than what it follows";
  for (const std::uint64_t number : {2u, 3u}) ASSERT_TRUE(write(*store, at(number)).ok());
  EXPECT_EQ(leading(*store, {at(1), at(2), at(3)}), 3u);
  EXPECT_EQ(leading(*store, {at(2), at(3)}), 2u);
  EXPECT_EQ(read(*store, at(3)), StatusCode::Ok);
}

TEST(MemoryStore, OpenedAgainItKeepsBlocksOfTheSameLayout) {
  const auto store = store_for(4);
  ASSERT_TRUE(write(*store, Sample(1)).ok());
  ASSERT_TRUE(store->open(kLayout, {}).ok());
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::Ok);
  KvLayout other = kLayout;
  other.dtype = DType::BF16;
  ASSERT_TRUE(store->open(other, {}).ok());
  EXPECT_EQ(read(*store, Sample(1)), StatusCode::NotFound);
  EXPECT_EQ(store->stats().stored_bytes, 0u);
}

// KV-like values and how many more blocks there are room for than bare ones of 2 bytes per value.
TEST(MemoryStore, CodecsMakeRoom) {
  constexpr KvLayout layout{.layers = 10, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = DType::BF16};
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(layout.block_elements());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = normal(random) * (i % 16 == 3 ? 20.0f : 1.0f);
  Sample sample(1);
  sample.bytes.resize(layout.block_bytes());
  sample.tokens.resize(layout.block_tokens);
  store_values(values.data(), layout.dtype, sample.bytes);
  for (const auto& [codec, least] :
       {std::pair{Codec::Raw, 0.97}, {Codec::Lossless, 1.4}, {Codec::Int8, 2.1}, {Codec::Int4, 3.3}}) {
    MemoryStore store({.capacity_bytes = 50 * layout.block_bytes(), .codec = codec});
    ASSERT_TRUE(store.open(layout, {}).ok());
    for (std::uint64_t i = 1; i <= 300; ++i) {
      sample.key.low = i;
      ASSERT_TRUE(write(store, sample).ok());
    }
    EXPECT_GE(static_cast<double>(store.stats().stored_blocks) / 50, least) << to_string(codec);
    EXPECT_LE(store.stats().stored_bytes, store.stats().capacity_bytes);
    std::vector<std::byte> bytes;
    EXPECT_EQ(read(store, sample, &bytes), StatusCode::Ok);
    if (codec == Codec::Raw || codec == Codec::Lossless) {
      EXPECT_EQ(bytes, sample.bytes);
    }
  }
}

// Blocks of very different size once encoded: some values random, the rest zero.
Sample of_any_size(std::uint64_t number, std::mt19937_64& random, const KvLayout& layout) {
  Sample sample(number);
  sample.tokens.resize(layout.block_tokens);
  sample.bytes.assign(layout.block_bytes(), std::byte{0});
  const std::size_t filled = random() % (sample.bytes.size() + 1);
  for (std::size_t i = 0; i < filled; ++i) sample.bytes[i] = static_cast<std::byte>(random());
  return sample;
}

// What the store must do, in plain words: a list, newest first.
struct Model {
  std::list<Sample> blocks;
  std::list<Sample>::iterator find(const BlockKey& key) {
    return std::ranges::find_if(blocks, [&](const Sample& sample) { return sample.key == key; });
  }
  void use(const BlockKey& key) { blocks.splice(blocks.begin(), blocks, find(key)); }
};

TEST(MemoryStore, ARandomHistoryMatchesThePlainModel) {
  constexpr KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 64, .block_tokens = 8, .dtype = DType::F16};
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    std::mt19937_64 random(seed);
    const Codec codec = seed % 3 == 0 ? Codec::Raw : Codec::Lossless;
    const std::size_t capacity_bytes = room_for(1 + seed % 4 * 5, layout) + 100 + random() % 1000;
    MemoryStore store({.capacity_bytes = capacity_bytes, .codec = codec});
    ASSERT_TRUE(store.open(layout, {}).ok());
    Model model;
    std::set<std::uint64_t> damaged;
    std::uint64_t evicted = 0;
    for (int step = 0; step < 3'000; ++step) {
      const std::uint64_t number = 1 + random() % 40;
      const auto known = model.find(Sample(number).key);
      const bool here = known != model.blocks.end();
      const auto choice = random() % 20;
      if (choice < 10) {
        Sample sample = here ? *known : of_any_size(number, random, layout);
        sample.tenant = number % 5;
        if (here && random() % 8 == 0) {
          sample.tokens[2] = static_cast<TokenId>(random() % 100 + 1000);  // other content
          model.blocks.erase(known);
          damaged.erase(number);
          model.blocks.push_front(sample);
        } else if (here) {
          model.use(sample.key);
        } else {
          model.blocks.push_front(sample);
        }
        ASSERT_TRUE(write(store, sample).ok());
        // How many had to go is the store's to say; that they are the oldest, and the accounts, are not.
        const std::uint64_t gone = store.stats().evicted_blocks - evicted;
        evicted += gone;
        for (std::uint64_t i = 0; i < gone; ++i) {
          damaged.erase(model.blocks.back().key.low);
          model.blocks.pop_back();
        }
      } else if (choice < 16) {
        const Sample asked = here ? *known : of_any_size(number, random, layout);
        std::vector<std::byte> bytes;
        const StatusCode code = read(store, asked, &bytes);
        if (!here) {
          ASSERT_EQ(code, StatusCode::NotFound);
        } else if (damaged.erase(number) == 1) {
          ASSERT_EQ(code, StatusCode::Corruption);
          model.blocks.erase(known);
        } else {
          ASSERT_EQ(code, StatusCode::Ok);
          ASSERT_EQ(bytes, asked.bytes);
        }
      } else if (choice < 18) {
        std::vector<Sample> asked;
        std::size_t expected = 0;
        for (std::uint64_t i = 0; i < 4; ++i) asked.emplace_back(number + i);
        while (expected < asked.size() && model.find(asked[expected].key) != model.blocks.end()) ++expected;
        ASSERT_EQ(leading(store, asked), expected);
        for (std::size_t i = expected; i-- > 0;) model.use(asked[i].key);
      } else if (choice == 18 && here) {
        if (damaged.insert(number).second) *store.stored_bytes(Sample(number).key) ^= std::byte{32};
      } else if (random() % 4 == 0) {
        const std::uint64_t tenant = number % 5;
        ASSERT_TRUE(store.erase_tenant(tenant).ok());
        for (const Sample& sample : model.blocks) {
          if (sample.tenant == tenant) damaged.erase(sample.key.low);
        }
        std::erase_if(model.blocks, [&](const Sample& sample) { return sample.tenant == tenant; });
      }
      const TierStats stats = store.stats();
      ASSERT_EQ(stats.stored_blocks, model.blocks.size());
      ASSERT_LE(stats.stored_bytes, capacity_bytes);
      ASSERT_EQ(stats.stored_bytes == 0, model.blocks.empty());
      ASSERT_EQ(stats.stored_bytes, store.counted_bytes());
    }
    EXPECT_GT(evicted, 0u);
  }
}

// Sizes change from block to block, and nothing of the capacity is lost by that.
TEST(MemoryStore, TheStoredShareDoesNotFall) {
  constexpr KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 64, .block_tokens = 8, .dtype = DType::F16};
  std::mt19937_64 random(3);
  MemoryStore store({.capacity_bytes = room_for(64, layout), .codec = Codec::Lossless});
  ASSERT_TRUE(store.open(layout, {}).ok());
  std::vector<Sample> samples;
  for (std::uint64_t i = 1; i <= 100; ++i) samples.push_back(of_any_size(i, random, layout));
  for (std::uint64_t i = 1; i <= 100'000; ++i) {
    Sample& sample = samples[random() % samples.size()];
    sample.key = {i, i};
    ASSERT_TRUE(write(store, sample).ok());
    if (i < 1000) continue;
    const TierStats stats = store.stats();
    ASSERT_GT(stats.stored_bytes, stats.capacity_bytes - 2 * room_for(1, layout));
    ASSERT_LE(stats.stored_bytes, stats.capacity_bytes);
  }
  ASSERT_TRUE(store.erase_all().ok());
  EXPECT_EQ(store.stats().stored_bytes, 0u);
}

// For ThreadSanitizer: leading() and stats() beside a thread that writes, reads and erases.
TEST(MemoryStore, MayBeAskedWhileItWorks) {
  const auto store = store_for(8);
  std::atomic<bool> done = false;
  std::thread asking([&] {
    while (!done) {
      EXPECT_LE(leading(*store, {Sample(1), Sample(2), Sample(3)}), 3u);
      EXPECT_LE(store->stats().stored_blocks, 8u);
    }
  });
  std::mt19937_64 random(5);
  for (int step = 0; step < 3'000; ++step) {
    const Sample sample(1 + random() % 20);
    ASSERT_TRUE(write(*store, sample).ok());
    std::vector<std::byte> bytes;
    ASSERT_EQ(read(*store, sample, &bytes), StatusCode::Ok);
    ASSERT_EQ(bytes, sample.bytes);
    if (step % 100 == 0) {
      ASSERT_TRUE(store->erase(sample.parent, sample.tokens).ok());
    }
  }
  done = true;
  asking.join();
}

}  // namespace
}  // namespace tiercel
