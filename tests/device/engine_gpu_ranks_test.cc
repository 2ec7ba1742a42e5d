// Engines whose ranks are on emulated GPUs: one after the other the same answers, hits in every tier, losses, and what
// cannot be.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <set>
#include <tuple>

#include "tests/device/gpu_engine.h"

namespace tiercel {
namespace {

using Answers = std::vector<Response>;

Tokens tokens_of(std::string_view text) { return {text.begin(), text.end()}; }

// Prompts of a few blocks of 8 tokens each; the second begins as the first does, by a block and a part of one.
std::vector<Request> some_requests() {
  std::vector<Request> requests;
  for (const char* text : {"The lighthouse kept", "The lighthous at n", "0123456789abcdef01"}) {
    requests.push_back({.tokens = tokens_of(text), .max_tokens = kSanitized ? 2 : 3, .ignore_end_of_text = true});
  }
  return requests;
}

Answers answers_of(Engine& engine, const std::vector<Request>& requests) {
  Answers answers;
  for (const Request& request : requests) {
    auto answer = engine.process_request(request).get();
    EXPECT_TRUE(answer.ok()) << answer.status().to_string();
    if (answer.ok()) answers.push_back(*std::move(answer));
  }
  return answers;
}

void expect_same(const Answers& some, const Answers& others, bool bits) {
  ASSERT_EQ(some.size(), others.size());
  for (std::size_t i = 0; i < some.size(); ++i) {
    EXPECT_EQ(some[i].tokens, others[i].tokens) << i;
    if (bits) {
      EXPECT_EQ(some[i].logprobs, others[i].logprobs) << i;
    }
  }
}

std::size_t found_in(const Answers& answers, std::string_view tier) {
  std::size_t found = 0;
  for (const Response& answer : answers) {
    for (const auto& [name, tokens] : answer.reused_by_tier) found += name == tier ? tokens : 0;
  }
  return found;
}

// The same, but each only when every tier has the blocks of those before: nothing waits for what is written, so in a
// small arena a request may evict what no tier has yet.
Answers stored_answers_of(Engine& engine, const std::vector<Request>& requests) {
  Answers answers;
  std::set<Tokens> blocks;  // each with what is before it
  for (const Request& request : requests) {
    for (Response& answer : answers_of(engine, {request})) answers.push_back(std::move(answer));
    for (std::size_t end = kBlockTokens; end <= request.tokens.size(); end += kBlockTokens) {
      blocks.emplace(request.tokens.begin(), request.tokens.begin() + static_cast<std::ptrdiff_t>(end));
    }
    const auto are_stored = [&] {
      const EngineStats stats = engine.get_stats();
      return std::all_of(stats.tiers.begin(), stats.tiers.end(),
                         [&](const KvTierStats& tier) { return tier.store.stored_blocks >= blocks.size(); });
    };
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kLong_ms);
    while (!are_stored() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(are_stored());
  }
  return answers;
}

// From an engine of so many ranks.
Answers answers_of_ranks(std::uint32_t size, const EngineOptions& options, const std::vector<Request>& requests) {
  GpuRanks ranks(options, size);
  Answers answers;
  {
    auto opened = Engine::open(ranks.first());
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    if (!opened.ok()) return {};
    CheckedEngine engine = *std::move(opened);
    answers = answers_of(engine, requests);
  }
  ranks.expect_good_ends();
  return answers;
}

// Streams and NCCL behave otherwise at each seed.
class EngineGpuRanks : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, EngineGpuRanks, testing::Range(0, kSanitized ? 1 : 3));
class EngineGpuRankTiers : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, EngineGpuRankTiers, testing::Range(kSanitized ? 2 : 0, 3));
class EngineGpuRankLoss : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, EngineGpuRankLoss, testing::Range(0, kSanitized ? 1 : 3));
class EngineGpuRankRefusal : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, EngineGpuRankRefusal, testing::Values(0));

// Greedy and not: nothing but the order of sums differs. Two ranks have a KV head each; four share them.
TEST_P(EngineGpuRanks, GiveTheTokensOfOne) {
  auto requests = some_requests();
  if (kSanitized) requests.resize(2);
  requests.back().sampling = {.temperature = 0.9f, .top_p = 0.95f, .seed = 5};
  Answers alone;
  {
    CheckedEngine engine = Engine::open(gpu_options()).value();
    alone = answers_of(engine, requests);
  }
  for (const std::uint32_t size : {2u, 4u}) {
    GpuRanks ranks(gpu_options(), size);
    {
      auto opened = Engine::open(ranks.first());
      ASSERT_TRUE(opened.ok()) << opened.status().to_string();
      CheckedEngine engine = *std::move(opened);
      EXPECT_EQ(engine.info().kv_heads, 2u);
      EXPECT_NE(engine.info().device, "cpu");
      const Answers shared = answers_of(engine, requests);
      expect_same(shared, alone, false);
      // A block, and a part of one that each rank copies.
      EXPECT_EQ(found_in(shared, "hot"), 13u);
      // Again, from the arenas, and all at once.
      const auto together = engine.process_batch(requests);
      for (std::size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(together[i].ok()) << together[i].status().to_string();
        EXPECT_EQ(together[i]->tokens, alone[i].tokens) << i;
      }
    }
    ranks.expect_good_ends();
  }
}

// Sums of two ranks are the same in any order, so that not a bit may differ.
TEST_P(EngineGpuRanks, AHitIsTheSameBits) {
  auto options = gpu_options(Compute::Fast);
  options.deterministic = true;
  const auto requests = some_requests();
  auto cold = options;
  cold.cache.prefix_reuse = false;
  const Answers computed = answers_of_ranks(2, cold, requests);
  EXPECT_EQ(found_in(computed, "hot"), 0u);
  const Answers found = answers_of_ranks(2, options, requests);
  EXPECT_EQ(found_in(found, "hot"), 13u);
  expect_same(found, computed, true);
}

// ---- Stages

EngineOptions in_stages(EngineOptions options, std::uint32_t stages) {
  options.ranks.pipeline = stages;
  return options;
}

// Two stages of a layer each, and two of these by heads. A prompt is long enough for several micro-batches.
TEST_P(EngineGpuRanks, StagesGiveTheGreedyTokensOfOne) {
  EngineOptions options = gpu_options();
  options.context_tokens = options.max_batch_tokens = 96;
  auto requests = some_requests();
  requests.erase(requests.begin() + 2);
  std::string text;
  while (text.size() < 70) text += "The lighthouse kept its lamp lit. ";
  text.resize(70);
  requests.push_back({.tokens = tokens_of(text), .max_tokens = 2, .ignore_end_of_text = true});
  Answers alone;
  {
    CheckedEngine engine = Engine::open(options).value();
    alone = answers_of(engine, requests);
  }
  std::swap(requests.front(), requests.back());  // the long one is computed whole, the others from its blocks
  std::swap(alone.front(), alone.back());
  const std::vector<std::uint32_t> sizes = kSanitized ? std::vector{4u} : std::vector{2u, 4u};
  for (const std::uint32_t size : sizes) {
    GpuRanks ranks(in_stages(options, 2), size);
    {
      auto opened = Engine::open(ranks.first());
      ASSERT_TRUE(opened.ok()) << opened.status().to_string();
      CheckedEngine engine = *std::move(opened);
      EXPECT_EQ(engine.info().layers, 2u);
      const Answers shared = answers_of(engine, requests);
      expect_same(shared, alone, false);
      EXPECT_GE(found_in(shared, "hot"), 26u);
      const auto together = engine.process_batch(requests);
      for (std::size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(together[i].ok()) << together[i].status().to_string();
        EXPECT_EQ(together[i]->tokens, alone[i].tokens) << i;
      }
    }
    ranks.expect_good_ends();
  }
}

// Four ranks may be exact where no stage has more than two, and have the bits of one stage of two.
TEST_P(EngineGpuRanks, AHitInStagesIsTheSameBits) {
  auto options = gpu_options(Compute::Fast);
  options.deterministic = true;
  const auto requests = some_requests();
  const Answers found = answers_of_ranks(4, in_stages(options, 2), requests);
  EXPECT_EQ(found_in(found, "hot"), 13u);
  if (kSanitized) return;
  auto cold = options;
  cold.cache.prefix_reuse = false;
  expect_same(answers_of_ranks(2, cold, requests), found, true);
}

// ---- Tiers

// An arena of `blocks` blocks at rank 0 of two.
EngineOptions small_arena(std::size_t blocks) {
  EngineOptions options = gpu_options();
  options.context_tokens = 32;
  constexpr std::size_t kBlockBytes = 2 * 2 * 8 * 64 * sizeof(float);  // layers, K and V, tokens, a head
  options.cache.capacity_bytes = blocks * kBlockBytes;
  return options;
}

TEST_P(EngineGpuRankTiers, WhatTheGpusHaveNoRoomForComesBackFromHostMemory) {
  EngineOptions options = small_arena(4);
  options.cache.memory_tier_bytes = std::size_t{1} << 20;
  const auto requests = some_requests();
  GpuRanks ranks(options, 2);
  {
    CheckedEngine engine = Engine::open(ranks.first()).value();
    const Answers computed = stored_answers_of(engine, requests);
    const Answers found = answers_of(engine, requests);
    EXPECT_GE(found_in(found, "memory"), 32u);
    expect_same(found, computed, true);
  }
  ranks.expect_good_ends();
}

TEST_P(EngineGpuRankTiers, ARestartFindsThePrefixesOnTheDisksOfAllRanks) {
  const TemporaryDirectory directory;
  EngineOptions options = gpu_options();
  options.context_tokens = 32;
  options.cache.disk_dir = directory.path();
  auto requests = some_requests();
  requests.erase(requests.begin() + 1);  // each has two blocks
  const Answers computed = answers_of_ranks(2, options, requests);
  EXPECT_EQ(found_in(computed, "disk"), 0u);
  const Answers found = answers_of_ranks(2, options, requests);
  EXPECT_EQ(found_in(found, "disk"), 32u);
  expect_same(found, computed, true);
  if (kSanitized) return;
  // One rank's disk alone is a miss for all.
  std::filesystem::remove_all(directory / "rank-1");
  const Answers lost = answers_of_ranks(2, options, requests);
  EXPECT_EQ(found_in(lost, "disk"), 0u);
  expect_same(lost, computed, true);
  // What two ranks wrote is nothing to one.
  CheckedEngine alone = Engine::open(options).value();
  const Answers of_one = answers_of(alone, requests);
  EXPECT_EQ(found_in(of_one, "disk"), 0u);
  expect_same(of_one, computed, false);
}

// Each rank keeps its heads and layers in tiers of its own, and they are nothing to ranks in other stages.
TEST_P(EngineGpuRankTiers, StagesFindTheirPrefixesInTiers) {
  const TemporaryDirectory directory;
  EngineOptions options = in_stages(small_arena(4), 2);  // half of the layers, with all of the heads
  options.cache.memory_tier_bytes = std::size_t{1} << 20;
  options.cache.disk_dir = directory.path();
  const auto requests = some_requests();
  GpuRanks ranks(options, 2);
  Answers computed;
  {
    CheckedEngine engine = Engine::open(ranks.first()).value();
    computed = stored_answers_of(engine, requests);
    const Answers found = answers_of(engine, requests);
    EXPECT_GE(found_in(found, "memory") + found_in(found, "disk"), 32u);
    expect_same(found, computed, true);
    ASSERT_TRUE(engine.flush(kLong_ms).ok());
  }
  ranks.expect_good_ends();
  const Answers restarted = answers_of_ranks(2, options, requests);
  EXPECT_GE(found_in(restarted, "disk"), 32u);
  expect_same(restarted, computed, true);
  if (kSanitized) return;
  const Answers by_heads = answers_of_ranks(2, in_stages(options, 1), requests);
  EXPECT_EQ(found_in(by_heads, "disk"), 0u);
  expect_same(by_heads, computed, false);
  const Answers grid = answers_of_ranks(4, options, requests);
  EXPECT_EQ(found_in(grid, "disk"), 0u);
  expect_same(grid, computed, false);
  EXPECT_GE(found_in(answers_of_ranks(4, options, requests), "disk"), 32u);
}

// ---- Losses

bool is_loss(const Status& status) {
  return status.code() == StatusCode::Unavailable || status.code() == StatusCode::DeadlineExceeded;
}

// Every rank leaves with a status, and every request has one, whatever comes of what `plan` plans.
void expect_loss(std::uint32_t size, const std::function<void()>& plan, std::uint32_t stages = 1) {
  GpuRanks ranks(in_stages(gpu_options(), stages), size, {}, /*timeout_ms=*/2000);
  {
    CheckedEngine engine = Engine::open(ranks.first()).value();
    plan();
    const Request request{.tokens = tokens_of("The lighthouse"), .max_tokens = 12, .ignore_end_of_text = true};
    const Status lost = engine.process_request(request).get().status();
    EXPECT_TRUE(is_loss(lost)) << lost.to_string();
    EXPECT_NE(lost.message().find("the engine needs all ranks"), std::string::npos) << lost.to_string();
    EXPECT_EQ(engine.process_request(request).get().status().code(), lost.code());
  }
  for (const Status& status : ranks.join()) EXPECT_TRUE(is_loss(status)) << status.to_string();
}

// Its 9th operation is in the second step.
TEST_P(EngineGpuRankLoss, ADeadRankEndsTheOthers) {
  expect_loss(2, [] { nccl_stand_in::plan_fault(1, 9, nccl_stand_in::Fault::Dead); });
}

TEST_P(EngineGpuRankLoss, AHungRankEndsTheOthers) {
  const bool is_first = GetParam() == 1;
  expect_loss(is_first ? 2 : 4, [&] { nccl_stand_in::plan_fault(is_first ? 0 : 3, 9, nccl_stand_in::Fault::Hung); });
}

// On whichever rank that is.
// A block is on its way to one GPU, or has just come there, when that breaks: at the first operation from then on.
TEST_P(EngineGpuRankLoss, ALoadThatFailsOnOneRankEndsAll) {
  EngineOptions options = small_arena(4);
  options.cache.memory_tier_bytes = std::size_t{1} << 20;
  GpuRanks ranks(options, 2, {}, /*timeout_ms=*/10'000);
  {
    CheckedEngine engine = Engine::open(ranks.first()).value();
    const auto requests = some_requests();
    stored_answers_of(engine, requests);
    cuemu::fail_operation(1, cudaErrorIllegalAddress, /*device=*/GetParam() % 2);
    const Status lost = engine.process_request(requests.front()).get().status();
    EXPECT_TRUE(is_loss(lost)) << lost.to_string();
    EXPECT_EQ(engine.process_request(requests.front()).get().status().code(), lost.code());
  }
  for (const Status& status : ranks.join()) EXPECT_TRUE(is_loss(status)) << status.to_string();
}

TEST_P(EngineGpuRankLoss, AFailingGpuEndsAllRanks) {
  expect_loss(4, [] { cuemu::fail_call("cudaLaunchKernelEx", 90, cudaErrorLaunchFailure); });
}

// In the second step: its sum within the stage, what it hands to the next one, the logits that it sends.
TEST_P(EngineGpuRankLoss, ARankOfAnyStageThatIsLostEndsAllStages) {
  using nccl_stand_in::Fault;
  struct Loss {
    std::uint32_t size;
    int rank, nth;
    Fault fault;
  };
  const Loss losses[][2] = {{{4, 3, 8, Fault::Dead}, {2, 0, 4, Fault::Hung}},
                            {{4, 1, 8, Fault::Hung}, {2, 1, 5, Fault::Dead}},
                            {{4, 0, 8, Fault::Dead}, {4, 2, 10, Fault::Hung}}};
  for (const Loss& loss : losses[GetParam()]) {
    expect_loss(
        loss.size, [&] { nccl_stand_in::plan_fault(loss.rank, loss.nth, loss.fault); }, /*stages=*/2);
  }
}

TEST_P(EngineGpuRankLoss, AFailingGpuEndsAllStages) {
  expect_loss(
      4, [] { cuemu::fail_call("cudaLaunchKernelEx", 90, cudaErrorLaunchFailure); }, /*stages=*/2);
}

TEST_P(EngineGpuRankRefusal, AGpuWithoutRoomForTheBlocksIsSaidByItsRank) {
  // Of all GPUs together, which takes two workspaces and one arena.
  start_over(static_cast<std::uint64_t>(GetParam()), std::size_t{300} << 20);
  EngineOptions options = gpu_options();
  options.cache.capacity_bytes = std::size_t{100} << 20;
  GpuRanks ranks(options, 2);
  const Status status = Engine::open(ranks.first()).status();
  EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
  const Status other = ranks.join()[0];
  EXPECT_EQ(other.code(), StatusCode::ResourceExhausted) << other.to_string();
  EXPECT_NE(other.message().find("KV blocks"), std::string::npos) << other.to_string();
}

// ---- What cannot be

// What rank 0 and rank 1 of two say when the latter's options are changed.
std::pair<Status, Status> refusals(const std::function<void(EngineOptions&)>& change_other,
                                   EngineOptions first = gpu_options(), std::uint64_t open_timeout_ms = kLong_ms) {
  GpuRanks ranks(std::move(first), 2, change_other, kLong_ms, open_timeout_ms);
  const Status status = Engine::open(ranks.first()).status();
  return {status, ranks.join()[0]};
}

void expect_says(const Status& status, StatusCode code, std::string_view what) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  EXPECT_NE(status.message().find(what), std::string::npos) << status.to_string();
}

TEST_P(EngineGpuRankRefusal, GpusBesideCpusAreRefusedByName) {
  auto [first, other] = refusals([](EngineOptions& options) { options.device = "cpu"; });
  for (const Status& status : {first, other}) {
    expect_says(status, StatusCode::InvalidArgument, "rank 0 computes on a GPU, and rank 1 on a CPU; give all ranks");
  }
  EngineOptions on_cpu = gpu_options();
  on_cpu.device = "cpu";
  std::tie(first, other) = refusals({}, on_cpu);
  for (const Status& status : {first, other}) {
    expect_says(status, StatusCode::InvalidArgument, "rank 0 computes on a CPU, and rank 1 on a GPU; give all ranks");
  }
}

TEST_P(EngineGpuRankRefusal, AGpuThatIsNotThereIsSaidAtOnce) {
  const auto [first, other] = refusals([](EngineOptions& options) { options.device = "cuda:99"; });
  expect_says(first, StatusCode::Unavailable, "rank 1 cannot compute on its GPU");
  expect_says(other, StatusCode::Unavailable, "there is no GPU 99; the last one is 7");
  EngineOptions options = gpu_options();
  options.device = "cuda:8";
  options.ranks = {.size = 2, .address = free_address()};
  expect_says(Engine::open(options).status(), StatusCode::Unavailable, "there is no GPU 8");
}

TEST_P(EngineGpuRankRefusal, RanksThatDoNotFitTogetherAreRefused) {
  static const TinyModelFile longer(3);
  const auto [first, other] = refusals([](EngineOptions& options) { options.model = longer.path(); });
  for (const Status& status : {first, other}) {
    expect_says(status, StatusCode::InvalidArgument, "would compute different models");
  }
  EngineOptions options = gpu_options();
  options.ranks = {.size = 5, .address = free_address()};
  expect_says(Engine::open(options).status(), StatusCode::InvalidArgument, "4 query heads");
}

TEST_P(EngineGpuRankRefusal, StagesThatCannotBeAreRefusedByName) {
  EngineOptions options = gpu_options();
  options.ranks = {.size = 3, .pipeline = 3, .address = free_address()};
  expect_says(Engine::open(options).status(), StatusCode::InvalidArgument, "ranks.pipeline is 3; this model has 2");
  options.ranks = {.size = 10, .pipeline = 2, .address = free_address()};
  expect_says(Engine::open(options).status(), StatusCode::InvalidArgument, "5 in each of 2 stages");
}

// The others hear of it, whichever stage they are of.
TEST_P(EngineGpuRankRefusal, AStageThatCannotBeginWithNcclEndsAllRanks) {
  nccl_stand_in::plan_failed_opening(3, ncclSystemError, 2);
  GpuRanks ranks(in_stages(gpu_options(), 2), 4, {}, kLong_ms, /*open_timeout_ms=*/1500);
  const Status first = Engine::open(ranks.first()).status();
  EXPECT_TRUE(is_loss(first)) << first.to_string();
  const std::vector<Status> others = ranks.join();
  for (const Status& status : others) EXPECT_TRUE(is_loss(status)) << status.to_string();
  expect_says(others[2], StatusCode::Unavailable, "rank 1 of 2 in a group: opening a communicator");
}

TEST_P(EngineGpuRankRefusal, TwoRanksOnOneGpuAreRefused) {
  const auto [first, other] =
      refusals([](EngineOptions& options) { options.device = "cuda"; }, gpu_options(), /*open_timeout_ms=*/1500);
  EXPECT_FALSE(first.ok());
  EXPECT_FALSE(other.ok());
  EXPECT_NE((first.message() + other.message()).find("give each rank a GPU"), std::string::npos)
      << first.to_string() << other.to_string();
  EXPECT_EQ(nccl_stand_in::complaints().size(), 1u);
}

TEST_P(EngineGpuRankRefusal, AnNcclThatCannotBeginEndsAllRanks) {
  nccl_stand_in::plan_failed_id(ncclSystemError);
  auto [first, other] = refusals({});
  expect_says(first, StatusCode::Unavailable, "unhandled system error");
  expect_says(other, StatusCode::Unavailable, "rank 0 could not begin with NCCL");
  nccl_stand_in::plan_failed_opening(1, ncclSystemError);
  std::tie(first, other) = refusals({}, gpu_options(), /*open_timeout_ms=*/1500);
  EXPECT_TRUE(is_loss(first)) << first.to_string();
  expect_says(other, StatusCode::Unavailable, "opening a communicator");
}

}  // namespace
}  // namespace tiercel
