// Tiers of an engine that ranks share: each rank a store of its own, rank 0 decides.
#include "engine/ranked_store.h"

#include <fstream>
#include <future>
#include <random>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tests/engine/ranked_engine.h"
#include "tests/kv/tier_fixture.h"
#include "tiercel/disk_tier.h"

namespace tiercel {
namespace {

using Stores = RankedEngine::Stores;

std::size_t room_for(std::size_t blocks) {
  return blocks * MemoryStore::taken_bytes(FakeModel::layout().block_bytes(), FakeModel::layout());
}

// A store for each rank that goes wrong on demand, and lasts.
std::vector<std::shared_ptr<FaultyStore>> faulty_stores(std::uint32_t size, std::size_t blocks = 2000) {
  std::vector<std::shared_ptr<FaultyStore>> stores;
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    stores.push_back(std::make_shared<FaultyStore>(room_for(blocks)));
    stores.back()->durable = true;
  }
  return stores;
}
std::vector<Stores> one_tier(const std::vector<std::shared_ptr<FaultyStore>>& stores) {
  std::vector<Stores> tiers;
  for (const auto& store : stores) tiers.push_back({store});
  return tiers;
}

// Ten whole blocks that `seed` alone begins with, and some tokens.
std::string prompt_of(char seed) {
  std::string text(81, seed);
  for (std::size_t i = 0; i < text.size(); ++i)
    text[i] = static_cast<char>('a' + (i * static_cast<std::size_t>(seed)) % 26);
  return seed + text;
}
// Of a token: longer than loading it takes.
constexpr std::chrono::microseconds kSlow{200};

Response answer_of(RankedEngine& engine, const std::string& text, std::string salt = {}) {
  Request request{.text = text, .max_tokens = 4};
  request.cache_salt = std::move(salt);
  auto answer = engine.ask(std::move(request)).get();
  EXPECT_TRUE(answer.ok()) << answer.status().to_string();
  if (!answer.ok()) return {};
  EXPECT_EQ(answer->tokens, expected_answer(text, 4)) << text;
  return *answer;
}

// Leaves nothing of what came before in the hot arena, of engines of at most 20 blocks.
void push_out(RankedEngine& engine) {
  for (const char seed : {'u', 'v', 'w', 'x'}) answer_of(engine, prompt_of(seed), "pushes");
}
// The same, and nobody is asked anything afterwards: a store may be changed.
void push_out_and_settle(RankedEngine& engine) {
  push_out(engine);
  EXPECT_TRUE(engine.cache->flush().ok());
}

// Prompts that share prefixes, blocks that are copied, forks, two tiers of which the one is small, a cache that has to
// evict; one of the other ranks has the KV of a step only after rank 0 believes it through.
TEST(RankedStore, AnswersAreThoseOfOneRankWhateverIsLoadedAndWritten) {
  for (const std::uint32_t size : {2u, 3u}) {
    std::vector<Stores> tiers;
    for (std::uint32_t rank = 0; rank < size; ++rank) {
      tiers.push_back({memory_tier({.capacity_bytes = room_for(60 - 10 * rank)}).value(),
                       memory_tier({.capacity_bytes = room_for(2000)}).value()});
    }
    RankedEngine engine({.size = size, .blocks = 40, .tiers = tiers, .followers_are_late = true});
    engine.first_rank->set_token_time(kSlow);
    const std::string stem =
        "The harbour at dawn is quiet, and the boats come in one by one with their crates, their nets and their gulls.";
    std::mt19937 random(size);
    std::vector<std::tuple<std::string, std::size_t, ResponseFuture>> asked;
    for (int i = 0; i < 400; ++i) {
      std::string text = std::string(1, static_cast<char>('a' + random() % 8)) +
                         stem.substr(0, 1 + random() % stem.size()) + std::to_string(random() % 10);
      const std::size_t max_tokens = 1 + random() % 12;
      ResponseFuture answer = engine.ask(text, static_cast<std::uint32_t>(max_tokens), 1 + random() % 3);
      asked.emplace_back(std::move(text), max_tokens, std::move(answer));
      if (asked.size() < 12) continue;
      for (auto& [asked_text, most, future] : asked) {
        const auto given = future.get();
        ASSERT_TRUE(given.ok()) << given.status().to_string();
        ASSERT_EQ(given->tokens, expected_answer(asked_text, most)) << asked_text;
      }
      asked.clear();
    }
    const KvCacheStats stats = engine.cache->stats();
    EXPECT_GT(engine.copies, 5u);
    EXPECT_GT(stats.evicted_blocks, 50u);
    EXPECT_GT(stats.tiers[0].matched_tokens + stats.tiers[1].matched_tokens, 400u);
    engine.leave();
    for (const Status& status : engine.statuses) EXPECT_TRUE(status.ok()) << status.to_string();
  }
}

// As GPUs have them: what a store gives is on its way there when the rank answers.
TEST(RankedStore, BlocksComeToMemoryThatTiersCannotReach) {
  const auto stores = faulty_stores(2);
  std::shared_ptr<DistantMemory> memory;
  RankedEngine engine({.blocks = 20, .tiers = one_tier(stores), .reserve = [&](std::size_t blocks) {
                         memory = std::make_shared<DistantMemory>(blocks, FakeModel::layout().block_bytes());
                         return Result<std::shared_ptr<const BlockMemory>>(memory);
                       }});
  engine.first_rank->set_token_time(kSlow);
  std::size_t found = 0;
  for (int times = 0; times < 3; ++times) {
    for (const char seed : {'a', 'b', 'c'}) found += answer_of(engine, prompt_of(seed)).reused_by_tier.at(1).second;
  }
  EXPECT_GT(found, 0u);
  EXPECT_GT(memory->begun_loads(), 0u);
  engine.leave();
  EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
}

TEST(RankedStore, WhatDoesNotComeToARanksMemoryIsComputedByAll) {
  const auto stores = faulty_stores(2);
  std::shared_ptr<DistantMemory> memory;
  std::atomic<bool> fails = false;
  RankedEngine engine({.blocks = 20, .tiers = one_tier(stores), .reserve = [&](std::size_t blocks) {
                         memory = std::make_shared<DistantMemory>(blocks, FakeModel::layout().block_bytes());
                         memory->fails = [&] { return fails.load(); };
                         return Result<std::shared_ptr<const BlockMemory>>(memory);
                       }});
  engine.first_rank->set_token_time(kSlow);
  answer_of(engine, prompt_of('a'));
  ASSERT_TRUE(engine.cache->flush().ok());
  push_out_and_settle(engine);
  fails = true;
  EXPECT_EQ(answer_of(engine, prompt_of('a')).reused_by_tier.at(1).second, 0u);
  EXPECT_GT(engine.cache->stats().tiers[0].errors, 0u);
}

TEST(RankedStore, WhatEveryRankHasIsFound) {
  const auto stores = faulty_stores(3);
  RankedEngine engine({.size = 3, .blocks = 20, .tiers = one_tier(stores)});
  engine.first_rank->set_token_time(kSlow);
  answer_of(engine, prompt_of('a'));
  ASSERT_TRUE(engine.cache->flush().ok());
  for (const auto& store : stores) EXPECT_EQ(store->stats().written_blocks, stores[0]->stats().written_blocks);
  for (const auto& store : stores) EXPECT_GE(store->flushes, 1);
  push_out(engine);
  EXPECT_GT(answer_of(engine, prompt_of('a')).reused_by_tier.at(1).second, 0u);
}

// Of one rank, or of the other; missing, corrupted, or not to be read.
TEST(RankedStore, ABlockThatOneRankCannotGiveIsComputedByAllAndWrittenAgain) {
  for (const std::uint32_t bad : {0u, 1u, 2u}) {
    for (const bool is_corrupt : {false, true}) {
      const auto stores = faulty_stores(3);
      RankedEngine engine({.size = 3, .blocks = 20, .tiers = one_tier(stores)});
      engine.first_rank->set_token_time(kSlow);
      answer_of(engine, prompt_of('a'));
      ASSERT_TRUE(engine.cache->flush().ok());
      push_out_and_settle(engine);
      if (is_corrupt) {
        stores[bad]->damage_one_in = 1;
      } else {
        ASSERT_TRUE(stores[bad]->inner.erase_all().ok());
      }
      const KvTierStats before = engine.cache->stats().tiers[0];
      EXPECT_EQ(answer_of(engine, prompt_of('a')).reused_tokens, 0u);
      const KvTierStats after = engine.cache->stats().tiers[0];
      if (is_corrupt) {
        EXPECT_GT(after.store.corrupt_blocks, before.store.corrupt_blocks) << "rank " << bad;
      } else if (bad > 0) {
        EXPECT_GT(after.store.missed_blocks, before.store.missed_blocks) << "rank " << bad;
      }
      EXPECT_EQ(after.errors, before.errors) << "a store that is well is asked on";
      ASSERT_TRUE(engine.cache->flush().ok());
      stores[bad]->damage_one_in = 0;
      push_out(engine);
      EXPECT_GT(answer_of(engine, prompt_of('a')).reused_tokens, 0u) << "rank " << bad;
    }
  }
}

TEST(RankedStore, ARankWhoseStoreFailsCostsThatTierAndNoAnswer) {
  const auto stores = faulty_stores(2);
  RankedEngine engine({.blocks = 20, .tiers = one_tier(stores)});
  engine.first_rank->set_token_time(kSlow);
  answer_of(engine, prompt_of('a'));
  ASSERT_TRUE(engine.cache->flush().ok());
  push_out_and_settle(engine);
  stores[1]->fail_read_one_in = stores[1]->fail_write_one_in = 1;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(answer_of(engine, prompt_of('a'), i % 2 ? "" : "other").reused_by_tier.at(1).second, 0u);
    push_out(engine);
  }
  const KvTierStats tier = engine.cache->stats().tiers[0];
  EXPECT_GT(tier.errors, 0u);
  EXPECT_GT(tier.store.errors, 0u);
  EXPECT_FALSE(tier.writes_available);
  engine.leave();
  EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
}

// Neither its own reads nor its writes keep a step waiting.
TEST(RankedStore, ARankWhoseStoreHangsIsNotWaitedFor) {
  for (const bool reads : {true, false}) {
    const auto stores = faulty_stores(2);
    std::promise<void> let_go;
    const std::shared_future<void> released = let_go.get_future().share();
    RankedEngine engine({.blocks = 20, .tiers = one_tier(stores), .tier_deadline_ms = 50});
    engine.first_rank->set_token_time(kSlow);
    if (reads) {
      answer_of(engine, prompt_of('a'));
      ASSERT_TRUE(engine.cache->flush().ok());
      push_out_and_settle(engine);
      stores[1]->before_read = [released](std::size_t) { released.wait(); };
    } else {
      stores[1]->before_write = [released] { released.wait(); };
    }
    for (int i = 0; i < 3; ++i) {
      answer_of(engine, prompt_of('a'));
      push_out(engine);
    }
    EXPECT_FALSE(engine.cache->flush(100).ok());
    answer_of(engine, prompt_of('a'));  // who asks notices
    EXPECT_GE(engine.cache->stats().tiers[0].late, 1u);
    let_go.set_value();
    // What the store did so late went into no block that is somebody else's by now.
    for (const char seed : {'a', 'b', 'c', 'a'}) answer_of(engine, prompt_of(seed));
    engine.leave();
    EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
  }
}

// A use of what rank 0 finds in the cache, or looks for in vain, is one on all ranks: the same blocks go first.
TEST(RankedStore, OtherRanksKeepWhatRankZeroUses) {
  auto stores = faulty_stores(2, 45);
  RankedEngine engine({.blocks = 20, .tiers = one_tier(stores)});
  engine.first_rank->set_token_time(kSlow);
  for (int round = 0; round < 6; ++round) {
    answer_of(engine, prompt_of('a'));
    answer_of(engine, prompt_of(static_cast<char>('b' + round)));
    ASSERT_TRUE(engine.cache->flush().ok());
  }
  EXPECT_EQ(engine.cache->stats().tiers[0].store.missed_blocks, 0u);
  EXPECT_EQ(stores[1]->stats().evicted_blocks, stores[0]->stats().evicted_blocks);
  EXPECT_GT(stores[1]->stats().evicted_blocks, 0u);
}

TEST(RankedStore, AnEngineEndsWhileAStoreOfARankHangs) {
  const auto stores = faulty_stores(2);
  std::promise<void> let_go;
  const std::shared_future<void> released = let_go.get_future().share();
  {
    RankedEngine engine({.blocks = 20, .tiers = one_tier(stores), .tier_deadline_ms = 50});
    stores[1]->before_write = [released] { released.wait(); };
    answer_of(engine, prompt_of('a'));
    EXPECT_FALSE(engine.cache->flush(100).ok());
    engine.leave();
    EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
  }
  let_go.set_value();
}

TEST(RankedStore, ARankWithLessRoomMakesForFewerHitsAndNoWrongOnes) {
  auto stores = faulty_stores(2);
  stores[1] = std::make_shared<FaultyStore>(room_for(25));
  RankedEngine engine({.blocks = 20, .tiers = one_tier(stores)});
  engine.first_rank->set_token_time(kSlow);
  for (int round = 0; round < 4; ++round) {
    for (const char seed : {'a', 'b', 'c', 'd', 'e', 'f'}) answer_of(engine, prompt_of(seed));
  }
  answer_of(engine, prompt_of('g'));
  ASSERT_TRUE(engine.cache->flush().ok());
  answer_of(engine, prompt_of('h'));
  answer_of(engine, prompt_of('i'));
  EXPECT_GT(engine.cache->stats().tiers[0].store.missed_blocks, 0u);
}

TEST(RankedStore, WhatIsForgottenIsForgottenByAll) {
  enum class What : std::uint8_t { Prefix, Tenant, All };
  for (const What what : {What::Prefix, What::Tenant, What::All}) {
    const auto stores = faulty_stores(3);
    RankedEngine engine({.size = 3, .blocks = 40, .tiers = one_tier(stores)});
    engine.first_rank->set_token_time(kSlow);
    const std::string text = prompt_of('a');
    answer_of(engine, text, "tenant");
    answer_of(engine, prompt_of('b'), "other");
    ASSERT_TRUE(engine.cache->flush().ok());
    const std::size_t stored = stores[0]->stats().stored_blocks;
    switch (what) {
      case What::Prefix:
        engine.cache->invalidate(std::vector<TokenId>(text.begin(), text.begin() + 8), {.salt = "tenant"});
        break;
      case What::Tenant: engine.cache->invalidate_tenant("tenant"); break;
      case What::All: engine.cache->invalidate_all(); break;
    }
    ASSERT_TRUE(engine.cache->flush().ok());
    for (const auto& store : stores) {
      EXPECT_LT(store->stats().stored_blocks, stored);
      EXPECT_EQ(store->stats().stored_blocks, stores[0]->stats().stored_blocks);
      EXPECT_EQ(store->stats().stored_blocks > 0, what != What::All);
    }
    EXPECT_EQ(answer_of(engine, text, "tenant").reused_tokens, 0u);
  }
}

TEST(RankedStore, AnErasureThatOneRankFailsIsAskedForAgainAndNothingIsReadUntilThen) {
  const auto stores = faulty_stores(2);
  RankedEngine engine({.blocks = 40, .tiers = one_tier(stores)});
  engine.first_rank->set_token_time(kSlow);
  answer_of(engine, prompt_of('a'));
  ASSERT_TRUE(engine.cache->flush().ok());
  stores[1]->fail_erase_one_in = 1;
  const std::string text = prompt_of('a');
  engine.cache->invalidate(std::vector<TokenId>(text.begin(), text.begin() + 8));
  EXPECT_FALSE(engine.cache->flush(500).ok());
  EXPECT_EQ(answer_of(engine, text).reused_tokens, 0u);
}

// ---- Disks, and engines one after the other

std::vector<Stores> disks(const TemporaryDirectory& directory, std::uint32_t size) {
  std::vector<Stores> tiers;
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    DiskTierOptions options{.directory = directory / ("rank-" + std::to_string(rank)),
                            .capacity_bytes = std::size_t{256} << 20,
                            .segment_bytes = std::size_t{1} << 20};
    tiers.push_back({disk_tier(options).value()});
  }
  return tiers;
}

TEST(RankedStore, ARestartFindsWhatEveryRanksDiskHas) {
  const TemporaryDirectory directory;
  const auto reused = [&] {
    RankedEngine engine({.size = 3, .blocks = 40, .tiers = disks(directory, 3)});
    engine.first_rank->set_token_time(kSlow);
    const std::size_t tokens = answer_of(engine, prompt_of('a')).reused_tokens;
    engine.leave();
    for (const Status& status : engine.statuses) EXPECT_TRUE(status.ok()) << status.to_string();
    return tokens;
  };
  EXPECT_EQ(reused(), 0u);
  EXPECT_GT(reused(), 0u);
  std::filesystem::remove_all(directory / "rank-2");
  EXPECT_EQ(reused(), 0u) << "rank 2 has nothing";
  EXPECT_GT(reused(), 0u) << "it was written again";
  for (const auto& file : std::filesystem::directory_iterator(directory / "rank-1")) {
    if (file.path().extension() != ".kv") continue;
    std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    const std::uintmax_t size = std::filesystem::file_size(file.path());
    for (std::uintmax_t at = 8192; at + 64 < size; at += 512)
      bytes.seekp(static_cast<std::streamoff>(at)).write("spoilt", 6);
  }
  EXPECT_EQ(reused(), 0u) << "what rank 1 has is spoilt";
  EXPECT_GT(reused(), 0u);
}

// All ranks at once, in the middle of writing. Disks that differ have what both have.
TEST(RankedStore, WhatIsFoundAfterAKillIsRight) {
  const TemporaryDirectory directory;
  std::mt19937 random(3);
  std::size_t found = 0;
  for (int round = 0; round < 12; ++round) {
    RankProcess process([&] {
      std::mt19937 draws(static_cast<unsigned>(round));
      RankedEngine engine({.blocks = 40, .tiers = disks(directory, 2)});
      while (true) answer_of(engine, prompt_of(static_cast<char>('a' + draws() % 20)) + std::to_string(draws() % 50));
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + random() % 120));
    process.signal(SIGKILL);
    process.wait();
    RankedEngine engine({.blocks = 40, .tiers = disks(directory, 2)});
    for (char seed = 'a'; seed < 'u'; ++seed) found += answer_of(engine, prompt_of(seed)).reused_tokens;
    engine.leave();
    EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
  }
  EXPECT_GT(found, 0u);
}

// ---- By itself, against a rank that the test plays

struct PlayedRank {
  PlayedRank() {
    const std::string address = free_address();
    std::thread other([&] {
      auto communicator = open_tcp_communicator(rank_options(address, 1, 2)).value();
      link = std::move(link_with_first(*communicator, address, 1, 60'000).value().front().front());
    });
    auto communicator = open_tcp_communicator(rank_options(address, 0, 2)).value();
    auto links = link_with_first(*communicator, address, 1, 60'000).value();
    other.join();
    store = std::make_shared<RankedStore>(own, std::move(links.front()), progress);
  }
  TierRequest next_request() {
    const auto frame = link.receive_frame(Deadline::max());
    TierRequest request;
    EXPECT_TRUE(frame.ok() && read_request(std::as_bytes(std::span(*frame)), request).ok());
    return request;
  }
  void answer(const TierAnswer& given) {
    std::vector<std::byte> frame;
    write_answer(given, frame);
    EXPECT_TRUE(link.send_frame({reinterpret_cast<const char*>(frame.data()), frame.size()}, Deadline::max()).ok());
  }
  void open() {
    std::thread opens([&] { EXPECT_TRUE(store->open(FakeModel::layout(), {}).ok()); });
    EXPECT_EQ(next_request().call, TierCall::Open);
    answer({});
    opens.join();
  }
  // Writes a block whose key is `low`, into both.
  void write(std::uint64_t low) {
    std::thread writes([&] {
      EXPECT_TRUE(store->stage(std::vector<BlockId>{3}).ok());
      const TierRecord record{.key = {low, 0}, .parent = {}, .tokens = tokens, .bytes = bytes};
      EXPECT_TRUE(store->write({&record, 1}).ok());
    });
    EXPECT_EQ(next_request().call, TierCall::Stage);
    answer({});
    EXPECT_EQ(next_request().call, TierCall::Write);
    answer({});
    writes.join();
  }
  TierRead read_of(std::uint64_t low, BlockId block) {
    return {.key = {low, 0}, .parent = {}, .tokens = tokens, .bytes = bytes, .block = block};
  }

  const std::vector<TokenId> tokens = std::vector<TokenId>(8, 1);
  std::vector<std::byte> bytes = std::vector<std::byte>(FakeModel::layout().block_bytes());
  std::shared_ptr<RankProgress> progress = std::make_shared<RankProgress>();
  std::shared_ptr<FaultyStore> own = std::make_shared<FaultyStore>(room_for(10));
  Socket link;
  std::shared_ptr<RankedStore> store;
};

TEST(RankedStore, ABlockThatWaitsForACopyIsNotReadInto) {
  PlayedRank other;
  other.open();
  other.write(1);
  std::vector<BlockCopy> told;
  other.progress->tell(told);
  other.progress->carried_out();
  other.progress->copy({.from = 4, .to = 5, .tokens = 1});
  for (const BlockId block : {4u, 5u}) {
    TierRead read = other.read_of(1, block);
    std::thread reads([&] { other.store->read({&read, 1}); });
    EXPECT_FALSE(other.link.wait_readable(RankClock::now() + std::chrono::milliseconds(50))) << "the other is asked";
    if (testing::Test::HasFailure()) other.progress->end();
    reads.join();
    EXPECT_EQ(read.status.code(), StatusCode::NotFound) << block;
  }
  // Told with a step that is under way: that step must be over. Others only wait for the one before.
  other.progress->tell(told);
  ASSERT_EQ(told.size(), 1u);
  for (const auto& [block, after] : {std::pair(5u, 2u), std::pair(6u, 1u)}) {
    TierRead read = other.read_of(1, block);
    std::thread reads([&] { other.store->read({&read, 1}); });
    const TierRequest request = other.next_request();
    EXPECT_EQ(request.call, TierCall::Read);
    EXPECT_EQ(request.after, after);
    other.answer({.status = {}, .blocks = {{.code = StatusCode::Ok, .copyable = block == 5}}});
    reads.join();
    EXPECT_TRUE(read.status.ok()) << read.status.to_string();
    EXPECT_EQ(read.copyable, block == 5) << "as it is on all ranks";
  }
}

TEST(RankedStore, AReadWhoseLinkBreaksReturnsWhenTheRanksHaveEnded) {
  PlayedRank other;
  other.open();
  other.write(1);
  std::atomic<bool> has_ended = false;
  TierRead read = other.read_of(1, 3);
  std::thread reads([&] {
    other.store->read({&read, 1});
    EXPECT_TRUE(has_ended) << "its block may be written by the other rank";
  });
  EXPECT_EQ(other.next_request().call, TierCall::Read);
  other.link.shut_down();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  has_ended = true;
  other.progress->end();
  reads.join();
  EXPECT_EQ(read.status.code(), StatusCode::Unavailable);
  EXPECT_EQ(other.store->write({}).code(), StatusCode::Unavailable);
  // What rank 0 has can still be forgotten.
  EXPECT_FALSE(other.store->erase_all().ok());
  EXPECT_EQ(other.own->stats().stored_blocks, 0u);
}

TEST(RankedStore, WhoAnswersWithNonsenseIsNotAskedAgain) {
  PlayedRank other;
  other.open();
  std::thread flushes([&] {
    EXPECT_EQ(other.store->flush().code(), StatusCode::Unavailable);
    EXPECT_EQ(other.store->flush().code(), StatusCode::Unavailable);
  });
  EXPECT_EQ(other.next_request().call, TierCall::Flush);
  ASSERT_TRUE(other.link.send_frame("nonsense", Deadline::max()).ok());
  EXPECT_FALSE(other.link.wait_readable(RankClock::now() + std::chrono::milliseconds(100)));
  other.progress->end();
  flushes.join();
}

TEST(RankedStore, UsesAreTold) {
  PlayedRank other;
  other.open();
  other.write(1);
  const BlockKey keys[] = {{1, 0}, {2, 0}};
  EXPECT_EQ(other.store->leading(keys), 1u);
  EXPECT_EQ(other.store->leading(keys), 1u);
  std::thread flushes([&] { EXPECT_TRUE(other.store->flush().ok()); });
  const TierRequest request = other.next_request();
  EXPECT_EQ(request.used, std::vector<BlockKey>({{1, 0}, {1, 0}}));
  EXPECT_EQ(request.used_lengths, std::vector<std::uint32_t>({1, 1}));
  other.answer({});
  flushes.join();
  EXPECT_TRUE(other.store->flush().ok()) << "nothing was written since: nobody is asked";
}

TEST(RankTierMessages, ComeBackAsTheyWere) {
  const TierRequest request{.call = TierCall::Read,
                            .after = 7,
                            .parent = {1, 2},
                            .tenant = 3,
                            .used = {{4, 5}},
                            .used_lengths = {1},
                            .blocks = {{.key = {6, 7},
                                        .parent = {8, 9},
                                        .tenant = 10,
                                        .adapter_id = 11,
                                        .block = 12,
                                        .position = 13,
                                        .tokens = 2,
                                        .copyable = false}},
                            .tokens = {14, 15}};
  std::vector<std::byte> bytes;
  write_request(request, bytes);
  TierRequest read;
  ASSERT_TRUE(read_request(bytes, read).ok());
  EXPECT_TRUE(read.call == request.call && read.after == 7 && read.parent == request.parent && read.tenant == 3);
  EXPECT_EQ(read.used, request.used);
  EXPECT_EQ(read.used_lengths, request.used_lengths);
  EXPECT_EQ(read.tokens, request.tokens);
  ASSERT_EQ(read.blocks.size(), 1u);
  const TierRequest::Block& block = read.blocks[0];
  EXPECT_TRUE(block.key == request.blocks[0].key && block.parent == request.blocks[0].parent && block.tenant == 10 &&
              block.adapter_id == 11 && block.block == 12 && block.position == 13 && block.tokens == 2 &&
              !block.copyable);
  for (std::size_t cut = 0; cut < bytes.size(); ++cut)
    EXPECT_FALSE(read_request(std::span(bytes).first(cut), read).ok());

  write_answer({.status = Status::corruption("why"), .blocks = {{.code = StatusCode::NotFound, .copyable = true}}},
               bytes);
  TierAnswer answer;
  ASSERT_TRUE(read_answer(bytes, answer).ok());
  EXPECT_EQ(answer.status.to_string(), "Corruption: why");
  ASSERT_EQ(answer.blocks.size(), 1u);
  EXPECT_TRUE(answer.blocks[0].code == StatusCode::NotFound && answer.blocks[0].copyable);
  for (std::size_t cut = 0; cut < bytes.size(); ++cut)
    EXPECT_FALSE(read_answer(std::span(bytes).first(cut), answer).ok());
}

}  // namespace
}  // namespace tiercel
