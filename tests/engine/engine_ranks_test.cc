// The engine of several ranks on the real model, each rank a process of its own.
#include <fstream>
#include <random>

#include <gtest/gtest.h>

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
                std::uint64_t timeout_ms = 30'000)
      : first_(std::move(options)) {
    first_.ranks = {.size = size,
                    .address = free_address(),
                    .transport = transport,
                    .timeout_ms = timeout_ms,
                    .open_timeout_ms = 120'000};
    for (std::uint32_t rank = 1; rank < size; ++rank) {
      EngineOptions of_rank{.model = first_.model, .threads = 1, .ranks = first_.ranks};
      of_rank.ranks.rank = rank;
      processes_.push_back(
          std::make_unique<RankProcess>([of_rank] { return static_cast<int>(Engine::serve_rank(of_rank).code()); }));
    }
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
};
class RealRanks : public testing::TestWithParam<Setup> {};

// In precise mode, where nothing but the order of sums differs.
TEST_P(RealRanks, GiveTheGreedyTokensOfOne) {
  REQUIRE_TEST_MODEL();
  const auto [size, transport] = GetParam();
  // Gloo takes several times as long, where processors are few.
  auto requests = requests_of(transport == RankTransport::Tcp ? 24 : 6);
  if (transport == RankTransport::Gloo) requests.erase(requests.begin() + 2, requests.end() - 3);
  RankProcesses ranks(options_of(Compute::Precise), size, transport);
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
                         testing::Values(Setup{2, RankTransport::Tcp}, Setup{4, RankTransport::Tcp}
#if defined(TIERCEL_TEST_GLOO)
                                         ,
                                         Setup{2, RankTransport::Gloo}, Setup{4, RankTransport::Gloo}
#endif
                                         ),
                         [](const auto& instance) {
                           return (instance.param.transport == RankTransport::Tcp ? "Tcp" : "Gloo") +
                                  std::to_string(instance.param.size);
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
  const auto run = [&](const EngineOptions& of_engine, std::size_t& copied) {
    RankProcesses ranks(of_engine, 2);
    std::vector<std::vector<std::vector<TokenId>>> tokens;
    {
      CheckedEngine engine = Engine::open(ranks.first()).value();
      for (const Response& answer : answers_of(engine, requests)) {
        auto& choices = tokens.emplace_back();
        choices.push_back(answer.tokens);
        for (const auto& choice : answer.choices) choices.push_back(choice.tokens);
      }
      copied = engine.get_stats().reused_tokens;
    }
    ranks.expect_good_ends();
    return tokens;
  };
  std::size_t reused = 0, none = 0;
  const auto warm_tokens = run(options, reused), cold_tokens = run(cold, none);
  EXPECT_EQ(warm_tokens, cold_tokens);
  EXPECT_EQ(none, 0u);
  EXPECT_GT(reused, 200u);
}

class LostProcess : public testing::TestWithParam<int> {};

TEST_P(LostProcess, EndsWhatRunsAndEveryLaterRequestWithAStatus) {
  REQUIRE_TEST_MODEL();
  RankProcesses ranks(options_of(Compute::Fast), 3, RankTransport::Tcp, /*timeout_ms=*/2000);
  CheckedEngine engine = Engine::open(ranks.first()).value();
  ASSERT_TRUE(engine.process_request({.text = "Once upon a time", .max_tokens = 4}).get().ok());
  Request endless{.text = "Once upon a time", .max_tokens = 900};
  endless.ignore_end_of_text = true;
  std::atomic<int> drawn = 0;
  endless.on_token = [&](const TokenEvent&) {
    if (++drawn == 20) ranks.process(2).signal(GetParam());
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

INSTANTIATE_TEST_SUITE_P(Signals, LostProcess, testing::Values(SIGKILL, SIGSTOP),
                         [](const auto& instance) { return instance.param == SIGKILL ? "Killed" : "Stopped"; });

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
  names(refusal({.size = 2, .address = "nowhere"}), "'nowhere' is no address");
  EXPECT_EQ(Engine::serve_rank(options_of(Compute::Fast)).code(), StatusCode::InvalidArgument);
}

}  // namespace
}  // namespace tiercel
