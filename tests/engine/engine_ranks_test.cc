// The engine of several ranks on the real model, each rank a process of its own.
#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tests/ranks/rank_threads.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

// The processes of all ranks but the first. Started before this process has threads, so before an engine is open.
class RankProcesses {
 public:
  RankProcesses(EngineOptions options, std::uint32_t size, RankTransport transport = RankTransport::Tcp,
                std::uint64_t timeout_ms = 30'000, std::uint32_t stages = 1)
      : first_(std::move(options)) {
    first_.ranks = {.size = size,
                    .pipeline = stages,
                    .address = free_address(),
                    .transport = transport,
                    .timeout_ms = timeout_ms,
                    .open_timeout_ms = 120'000};
    for (std::uint32_t rank = 1; rank < size; ++rank) {
      EngineOptions of_rank{.model = first_.model, .threads = 1, .ranks = first_.ranks};
      of_rank.ranks.rank = rank;
      of_rank.ranks.pipeline = 1;  // rank 0 says what there is
      if (!first_.cache.disk_dir.empty()) of_rank.cache.disk_dir = directory_of(first_.cache.disk_dir, rank);
      processes_.push_back(
          std::make_unique<RankProcess>([of_rank] { return static_cast<int>(Engine::serve_rank(of_rank).code()); }));
    }
  }

  // In rank 0's directory of disk tier, that of another rank.
  static std::string directory_of(const std::string& first, std::uint32_t rank) {
    return first + "/rank-" + std::to_string(rank);
  }

  // For Engine::open().
  const EngineOptions& first() const { return first_; }
  RankProcess& process(std::uint32_t rank) { return *processes_[rank - 1]; }
  void expect_good_ends() {
    for (const auto& process : processes_) EXPECT_EQ(process->wait(), static_cast<int>(StatusCode::Ok));
  }

 private:
  EngineOptions first_;
  std::vector<std::unique_ptr<RankProcess>> processes_;
};

EngineOptions options_of(Compute compute) {
  EngineOptions options{.model = test_model_path(), .compute = compute, .threads = 1, .context_tokens = 1024};
  options.cache.capacity_bytes = std::size_t{128} << 20;
  return options;
}

std::vector<Request> requests_of(std::uint32_t max_tokens) {
  const std::string stem = "The lighthouse keeper wrote every evening in a thick book with a leather cover. ";
  std::vector<Request> requests;
  for (const char* text :
       {"Once upon a time", "The capital of France is", "def fibonacci(n):", "Dear Sir or Madam,\n", "Water boils at",
        "1, 2, 3, 4, 5,", "The three most important inventions of the last century are"}) {
    requests.push_back({.text = text, .max_tokens = max_tokens});
  }
  // These share a beginning with each other, whole blocks and a part of one.
  for (const char* end : {"On the first day", "On the second day", "On the last day of the year"}) {
    requests.push_back({.text = stem + stem + stem + end, .max_tokens = max_tokens});
  }
  for (Request& request : requests) request.ignore_end_of_text = true;
  return requests;
}

std::vector<Response> answers_of(Engine& engine, const std::vector<Request>& requests) {
  std::vector<Response> answers;
  for (const Request& request : requests) answers.push_back(engine.process_request(request).get().value());
  return answers;
}

struct Setup {
  std::uint32_t size;
  RankTransport transport;
  std::uint32_t stages = 1;
};
class RealRanks : public testing::TestWithParam<Setup> {};

// In precise mode, where nothing but the order of sums differs.
TEST_P(RealRanks, GiveTheGreedyTokensOfOne) {
  REQUIRE_TEST_MODEL();
  const auto [size, transport, stages] = GetParam();
  // Gloo takes several times as long, where processors are few.
  auto requests = requests_of(transport == RankTransport::Tcp ? 24 : 6);
  if (transport == RankTransport::Gloo) requests.erase(requests.begin() + 2, requests.end() - 3);
  RankProcesses ranks(options_of(Compute::Precise), size, transport, 30'000, stages);
  std::vector<Response> shared;
  {
    auto opened = Engine::open(ranks.first());
    ASSERT_TRUE(opened.ok()) << opened.status().to_string();
    CheckedEngine engine = *std::move(opened);
    EXPECT_EQ(engine.info().kv_heads, 3u);
    shared = answers_of(engine, requests);
    // Again, from the cache, and all at once.
    const auto together = engine.process_batch(requests);
    for (std::size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(together[i]->tokens, shared[i].tokens) << i;
    EXPECT_GT(engine.get_stats().reused_tokens, 100u);
  }
  ranks.expect_good_ends();
  CheckedEngine alone = Engine::open(options_of(Compute::Precise)).value();
  const auto expected = answers_of(alone, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(shared[i].tokens, expected[i].tokens) << requests[i].text;
}

INSTANTIATE_TEST_SUITE_P(Sizes, RealRanks,
                         testing::Values(Setup{2, RankTransport::Tcp}, Setup{4, RankTransport::Tcp},
                                         Setup{2, RankTransport::Tcp, 2}, Setup{4, RankTransport::Tcp, 2},
                                         Setup{4, RankTransport::Tcp, 4}
#if defined(TIERCEL_TEST_GLOO)
                                         ,
                                         Setup{2, RankTransport::Gloo}, Setup{4, RankTransport::Gloo},
                                         Setup{4, RankTransport::Gloo, 2}
#endif
                                         ),
                         [](const auto& instance) {
                           const Setup& setup = instance.param;
                           return (setup.transport == RankTransport::Tcp ? "Tcp" : "Gloo") +
                                  std::to_string(setup.size) +
                                  (setup.stages > 1 ? "InStages" + std::to_string(setup.stages) : "");
                         });

// The promise that a cached answer is a computed one, and choices that go on from one prompt: every copied block is
// copied on each rank.
TEST(EngineRanks, ReusedPrefixesPartsOfBlocksAndForksChangeNothing) {
  REQUIRE_TEST_MODEL();
  EngineOptions options = options_of(Compute::Fast);
  options.deterministic = true;
  EngineOptions cold = options;
  cold.cache.prefix_reuse = false;
  std::vector<Request> requests;
  const std::string stem =
      "The harbour at dawn. Boat 37 brought 12 crates of oranges, boat 4 brought fish, and boat 9 ";
  std::mt19937 random(5);
  for (int i = 0; i < 24; ++i) {
    Request request{.text = (stem + stem + stem).substr(0, 60 + random() % 180), .max_tokens = 8};
    request.ignore_end_of_text = true;
    if (i % 4 == 3) {
      request.n = 3;
      request.sampling = {.temperature = 0.8f, .seed = random()};
    }
    requests.push_back(std::move(request));
  }
  const auto tokens_of = [&](const EngineOptions& of_engine, std::size_t& reused) {
    std::vector<std::vector<std::vector<TokenId>>> tokens;
    CheckedEngine engine = Engine::open(of_engine).value();
    for (const Response& answer : answers_of(engine, requests)) {
      auto& choices = tokens.emplace_back();
      choices.push_back(answer.tokens);
      for (const auto& choice : answer.choices) choices.push_back(choice.tokens);
    }
    reused = engine.get_stats().reused_tokens;
    return tokens;
  };
  const auto of_two = [&](const EngineOptions& of_engine, std::uint32_t stages, std::size_t& reused) {
    RankProcesses ranks(of_engine, 2, RankTransport::Tcp, 30'000, stages);
    auto tokens = tokens_of(ranks.first(), reused);
    ranks.expect_good_ends();
    return tokens;
  };
  std::vector<std::vector<std::vector<TokenId>>> in_stages;
  for (const std::uint32_t stages : {1u, 2u}) {
    std::size_t reused = 0, none = 0;
    in_stages = of_two(options, stages, reused);
    EXPECT_EQ(of_two(cold, stages, none), in_stages) << stages;
    EXPECT_EQ(none, 0u);
    EXPECT_GT(reused, 200u);
  }
  // Stages change no bit of what one computes, so not what is drawn by it.
  std::size_t reused = 0;
  EXPECT_EQ(tokens_of(options, reused), in_stages);
  // KV of 8 bits: each rank has the codes of its heads.
  options.cache.kv_dtype = cold.cache.kv_dtype = KvDType::Int8;
  std::size_t none = 0;
  const auto codes = of_two(options, 1, reused);
  EXPECT_EQ(of_two(cold, 1, none), codes);
  EXPECT_GT(reused, 200u);
}

// ---- Tiers

// Its answers from one engine of ranks that keeps KV in `directory`, and how many prompt tokens came from the disk.
struct KeptAnswers {
  std::vector<std::vector<TokenId>> tokens;
  std::size_t from_disk = 0;
};
KeptAnswers answers_with_disk(std::uint32_t size, const std::string& directory, const std::vector<Request>& requests,
                              std::uint32_t stages = 1) {
  EngineOptions options = options_of(Compute::Precise);
  options.cache.disk_dir = directory;
  KeptAnswers kept;
  std::unique_ptr<RankProcesses> ranks;
  if (size > 1) ranks = std::make_unique<RankProcesses>(options, size, RankTransport::Tcp, 30'000, stages);
  {
    auto opened = Engine::open(size > 1 ? ranks->first() : options);
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    if (!opened.ok()) return kept;
    CheckedEngine engine = *std::move(opened);
    for (const Response& answer : answers_of(engine, requests)) {
      kept.tokens.push_back(answer.tokens);
      for (const auto& [tier, tokens] : answer.reused_by_tier) kept.from_disk += tier == "disk" ? tokens : 0;
    }
  }
  if (ranks) ranks->expect_good_ends();
  return kept;
}

// Long enough for several blocks each, and to be worth loading.
std::vector<Request> long_requests() {
  std::vector<Request> requests;
  for (const char* subject : {"The lighthouse keeper", "The harbour master", "The night train"}) {
    std::string text;
    for (int i = 0; i < 14; ++i) text += std::string(subject) + " wrote every evening in a thick book with a cover. ";
    requests.push_back({.text = text, .max_tokens = 8, .ignore_end_of_text = true});
  }
  return requests;
}

TEST(EngineRanks, ARestartFindsThePrefixesAndGivesTheSameTokens) {
  REQUIRE_TEST_MODEL();
  const auto requests = long_requests();
  const std::pair<std::uint32_t, std::uint32_t> setups[] = {{2, 1}, {4, 1}, {2, 2}, {4, 2}};
  for (const auto& [size, stages] : setups) {
    const TemporaryDirectory directory;
    const KeptAnswers cold = answers_with_disk(size, directory.path(), requests, stages);
    const KeptAnswers kept = answers_with_disk(size, directory.path(), requests, stages);
    EXPECT_EQ(cold.from_disk, 0u);
    EXPECT_GT(kept.from_disk, 400u);
    EXPECT_EQ(kept.tokens, cold.tokens);
  }
}

// What two ranks wrote is no hit for one or four, or for two in stages, and the other way round; all may share a
// directory.
TEST(EngineRanks, WhatOtherNumbersOfRanksKeptIsNotFound) {
  REQUIRE_TEST_MODEL();
  const TemporaryDirectory directory;
  auto requests = long_requests();
  requests.resize(1);
  const KeptAnswers two = answers_with_disk(2, directory.path(), requests);
  const std::pair<std::uint32_t, std::uint32_t> others[] = {{2, 2}, {1, 1}, {4, 1}, {4, 2}};
  for (const auto& [size, stages] : others) {
    const KeptAnswers other = answers_with_disk(size, directory.path(), requests, stages);
    EXPECT_EQ(other.from_disk, 0u) << size << " ranks, " << stages << " stages";
    EXPECT_EQ(other.tokens, two.tokens) << size << " ranks, " << stages << " stages";
  }
  const std::pair<std::uint32_t, std::uint32_t> all[] = {{2, 1}, {2, 2}, {1, 1}, {4, 1}, {4, 2}};
  for (const auto& [size, stages] : all) {
    const KeptAnswers again = answers_with_disk(size, directory.path(), requests, stages);
    EXPECT_GT(again.from_disk, 100u) << size << " ranks, " << stages << " stages";
    EXPECT_EQ(again.tokens, two.tokens) << size << " ranks, " << stages << " stages";
  }
}

TEST(EngineRanks, ADiskOfOneRankThatIsLostOrSpoiltIsAMissForAll) {
  REQUIRE_TEST_MODEL();
  const TemporaryDirectory directory;
  auto requests = long_requests();
  requests.resize(1);
  const KeptAnswers cold = answers_with_disk(2, directory.path(), requests);
  const auto expect = [&](bool found) {
    const KeptAnswers kept = answers_with_disk(2, directory.path(), requests);
    EXPECT_EQ(kept.tokens, cold.tokens);
    EXPECT_EQ(kept.from_disk > 0, found) << kept.from_disk;
  };
  const std::string of_other = RankProcesses::directory_of(directory.path(), 1);
  expect(true);
  for (const auto& file : std::filesystem::directory_iterator(of_other)) {
    if (file.path().extension() != ".kv") continue;
    std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    const std::uintmax_t size = std::filesystem::file_size(file.path());
    for (std::uintmax_t at = 1 << 16; at < size; at += 1 << 16)
      bytes.seekp(static_cast<std::streamoff>(at)).put('\x55');
  }
  expect(false);
  expect(true);  // written again
  std::filesystem::remove_all(of_other);
  expect(false);
  expect(true);
}

TEST(EngineRanks, ARankWithoutADirectoryIsRefusedByName) {
  REQUIRE_TEST_MODEL();
  const TemporaryDirectory directory;
  EngineOptions options = options_of(Compute::Fast);
  RankProcesses ranks(options, 2);  // which knows of no directory
  options = ranks.first();
  options.cache.disk_dir = directory.path();
  const Status status = Engine::open(options).status();
  EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << status.to_string();
  EXPECT_NE(status.message().find("rank 1: cache.disk_dir is empty"), std::string::npos) << status.to_string();
  EXPECT_EQ(ranks.process(1).wait(), static_cast<int>(StatusCode::InvalidArgument));
}

// Rank 0 says how large; each rank has room for as many blocks of its part.
TEST(EngineRanks, AMemoryTierTakesWhatTheHotArenaHasNoRoomFor) {
  REQUIRE_TEST_MODEL();
  EngineOptions options = options_of(Compute::Precise);
  options.context_tokens = 512;
  options.cache.memory_tier_bytes = std::size_t{64} << 20;
  const auto requests = long_requests();
  for (const std::uint32_t stages : {1u, 2u}) {
    // Rank 0 has 2 of 3 KV heads, or 15 of 30 layers.
    options.cache.capacity_bytes = (stages == 1 ? std::size_t{16} : std::size_t{12}) << 20;
    RankProcesses ranks(options, 2, RankTransport::Tcp, 30'000, stages);
    {
      CheckedEngine engine = Engine::open(ranks.first()).value();
      const auto first = answers_of(engine, requests), second = answers_of(engine, requests);
      std::size_t from_memory = 0;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(first[i].tokens, second[i].tokens) << i;
        for (const auto& [tier, tokens] : second[i].reused_by_tier) from_memory += tier == "memory" ? tokens : 0;
      }
      EXPECT_GT(from_memory, 100u) << stages << " stages";
    }
    ranks.expect_good_ends();
  }
}

// All at once, while blocks are written.
TEST(EngineRanks, WhatIsFoundAfterAKillIsRight) {
  REQUIRE_TEST_MODEL();
  const TemporaryDirectory directory;
  const auto requests = long_requests();
  KeptAnswers cold;
  {
    const TemporaryDirectory other;
    cold = answers_with_disk(2, other.path(), requests);
  }
  EngineOptions options = options_of(Compute::Precise);
  options.cache.disk_dir = directory.path();
  for (int round = 0; round < 3; ++round) {
    RankProcesses ranks(options, 2);
    int answered[2];
    ASSERT_EQ(::pipe(answered), 0);
    RankProcess first([&] {
      Engine engine = Engine::open(ranks.first()).value();
      for (const Request& request : requests) {
        const bool is_well = engine.process_request(request).get().ok() && ::write(answered[1], ".", 1) == 1;
        if (!is_well) return 1;
      }
      ::pause();
      return 0;
    });
    char byte = 0;
    for (int i = 0; i <= round; ++i) ASSERT_EQ(::read(answered[0], &byte, 1), 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * round));  // some of its blocks are written
    ranks.process(1).signal(SIGKILL);
    first.signal(SIGKILL);
    ranks.process(1).wait();
    first.wait();
    ::close(answered[0]);
    ::close(answered[1]);
    EXPECT_EQ(answers_with_disk(2, directory.path(), requests).tokens, cold.tokens) << round;
    if (round < 2) std::filesystem::remove_all(directory / "rank-1");  // and what rank 0 has alone is a miss
  }
}

// A signal, and the stages that three ranks are.
class LostProcess : public testing::TestWithParam<std::tuple<int, std::uint32_t>> {};

TEST_P(LostProcess, EndsWhatRunsAndEveryLaterRequestWithAStatus) {
  REQUIRE_TEST_MODEL();
  const auto [signal, stages] = GetParam();
  RankProcesses ranks(options_of(Compute::Fast), 3, RankTransport::Tcp, /*timeout_ms=*/6000, stages);
  CheckedEngine engine = Engine::open(ranks.first()).value();
  ASSERT_TRUE(engine.process_request({.text = "Once upon a time", .max_tokens = 4}).get().ok());
  Request endless{.text = "Once upon a time", .max_tokens = 900};
  endless.ignore_end_of_text = true;
  std::atomic<int> drawn = 0;
  endless.on_token = [&, signal = signal](const TokenEvent&) {
    if (++drawn == 20) ranks.process(2).signal(signal);
  };
  const auto answer = engine.process_request(std::move(endless)).get();
  ASSERT_FALSE(answer.ok());
  const StatusCode code = answer.status().code();
  EXPECT_TRUE(code == StatusCode::Unavailable || code == StatusCode::DeadlineExceeded) << answer.status().to_string();
  EXPECT_EQ(engine.process_request({.text = "Once more", .max_tokens = 4}).get().status().code(), code);
  const int other = ranks.process(1).wait();
  EXPECT_TRUE(other == static_cast<int>(StatusCode::Unavailable) ||
              other == static_cast<int>(StatusCode::DeadlineExceeded))
      << other;
}

INSTANTIATE_TEST_SUITE_P(Signals, LostProcess,
                         testing::Combine(testing::Values(SIGKILL, SIGSTOP), testing::Values(1u, 3u)),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param) == SIGKILL ? "Killed" : "Stopped") +
                                  (std::get<1>(instance.param) > 1 ? "InStages" : "");
                         });

TEST(EngineRanks, WhatRanksCannotBeIsRefusedByName) {
  REQUIRE_TEST_MODEL();
  const auto refusal = [](const RankOptions& ranks) {
    EngineOptions options = options_of(Compute::Fast);
    options.ranks = ranks;
    const Status status = Engine::open(options).status();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << status.to_string();
    return status.message();
  };
  const auto names = [](const std::string& message, std::string_view what) {
    EXPECT_NE(message.find(what), std::string::npos) << message;
  };
  names(refusal({.size = 2}), "ranks.address is empty");
  names(refusal({.size = 2, .rank = 2, .address = "localhost:1"}), "ranks.rank is 2");
  names(refusal({.size = 2, .rank = 1, .address = "localhost:1"}), "Engine::serve_rank()");
  names(refusal({.size = 10, .address = "localhost:1"}), "9 query heads");
  names(refusal({.size = 20, .pipeline = 2, .address = "localhost:1"}), "in each of 2 stages");
  names(refusal({.size = 31, .pipeline = 31, .address = "localhost:1"}), "30 layers");
  names(refusal({.size = 4, .pipeline = 3, .address = "localhost:1"}), "ranks.pipeline is 3");
  names(refusal({.size = 2, .address = "nowhere"}), "'nowhere' is no address");
  EXPECT_EQ(Engine::serve_rank(options_of(Compute::Fast)).code(), StatusCode::InvalidArgument);
}

}  // namespace
}  // namespace tiercel
