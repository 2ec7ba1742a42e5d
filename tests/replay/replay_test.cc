#include "replay/replay.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "replay/offline_optimum.h"
#include "tests/replay/trace_file.h"
#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

// What the cache must do under lru(), in its plainest form: a map from each kept prefix to its last use.
class PlainLru {
 public:
  explicit PlainLru(std::size_t capacity) : capacity_(capacity) {}

  void serve(const Trace& trace, const TraceRequest& request) {
    auto blocks = trace.shared_blocks(request);
    blocks = blocks.first(std::min(blocks.size(), capacity_));
    const std::size_t prompt = std::min<std::size_t>(request.prompt_blocks, blocks.size());
    held_.clear();
    while (held_.size() < std::min<std::size_t>(prompt, request.matchable_blocks) &&
           kept_.contains(prefix(blocks, held_.size() + 1))) {
      held_.push_back(prefix(blocks, held_.size() + 1));
    }
    hits += held_.size();
    write(blocks, prompt);
    write(blocks, blocks.size());
    for (; !held_.empty(); held_.pop_back()) kept_[held_.back()] = ++uses_;  // the deepest first
  }

  std::uint64_t hits = 0;
  std::uint64_t evictions = 0;

 private:
  using Prefix = std::vector<TokenId>;

  static Prefix prefix(std::span<const TokenId> blocks, std::size_t count) {
    return {blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(count)};
  }

  // Room for all blocks up to `end` is made first, then they are written and kept, unless they are kept already.
  void write(std::span<const TokenId> blocks, std::size_t end) {
    const std::size_t taken = end - held_.size();
    while (kept_.size() + taken > capacity_ && !testing::Test::HasFatalFailure()) evict_one();
    while (held_.size() < end) {
      held_.push_back(prefix(blocks, held_.size() + 1));
      kept_.try_emplace(held_.back(), 0);
    }
  }

  void evict_one() {
    auto oldest = kept_.end();
    for (auto block = kept_.begin(); block != kept_.end(); ++block) {
      // In the map's order a prefix stands right before those that begin with it.
      const auto after = std::next(block);
      const bool is_leaf = after == kept_.end() || after->first.size() <= block->first.size() ||
                           !std::equal(block->first.begin(), block->first.end(), after->first.begin());
      const bool is_held = std::ranges::find(held_, block->first) != held_.end();
      if (is_leaf && !is_held && (oldest == kept_.end() || block->second < oldest->second)) oldest = block;
    }
    ASSERT_NE(oldest, kept_.end());
    kept_.erase(oldest);
    ++evictions;
  }

  const std::size_t capacity_;
  std::map<Prefix, std::uint64_t> kept_;
  std::vector<Prefix> held_;
  std::uint64_t uses_ = 0;
};

class ReplayOnRandomTraces : public testing::TestWithParam<int> {};

TEST_P(ReplayOnRandomTraces, FindsWhatAPlainModelFinds) {
  const auto seed = static_cast<std::uint64_t>(GetParam());
  const Trace trace = trace_of(random_trace(seed, {.requests = 300, .recorded_by_tiercel = seed % 2 == 1}));
  for (const std::size_t capacity : {1, 2, 7, 20, 60, 200}) {
    PlainLru model(capacity);
    for (const TraceRequest& request : trace.requests) model.serve(trace, request);
    const auto result = replay(trace, {.eviction = lru(), .capacity_blocks = capacity});
    ASSERT_TRUE(result.ok()) << result.status().to_string();
    EXPECT_EQ(result->hit_blocks, model.hits) << "capacity " << capacity;
    EXPECT_EQ(result->evictions, model.evictions) << "capacity " << capacity;
    EXPECT_TRUE(capacity < 7 || model.hits > 0) << "nothing was found";
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ReplayOnRandomTraces, testing::Range(0, 8));

TEST(Replay, CountsBlocksAndTokens) {
  const Trace trace = trace_of(R"({"input_length":1300,"hash_ids":[1,2,3]})"
                               "\n"
                               R"({"input_length":1024,"hash_ids":[1,2]})"
                               "\n"
                               R"({"input_length":1300,"hash_ids":[1,2,3]})"
                               "\n"
                               R"({"input_length":200,"hash_ids":[]})"
                               "\n");
  const auto result = replay(trace, {.eviction = lru(), .capacity_blocks = 10});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->requests, 4u);
  EXPECT_EQ(result->accesses, 8u);
  EXPECT_EQ(result->hit_blocks, 4u) << "the partial block is not found, although it is the same";
  EXPECT_DOUBLE_EQ(result->hit_rate(), .5);
  EXPECT_DOUBLE_EQ(result->token_hit_rate(), 2048. / 3824);
  EXPECT_EQ(result->evictions, 0u);
  EXPECT_GT(result->ns_per_access(), 0);
}

TEST(Replay, TheNextTurnFindsTheAnswer) {
  const Trace trace =
      trace_of(R"({"input_length":40,"output_length":60,"block_tokens":32,"hash_ids":[1,2],"output_ids":[3,4]})"
               "\n"
               R"({"input_length":120,"output_length":1,"block_tokens":32,"hash_ids":[1,3,4,5]})"
               "\n");
  const auto result = replay(trace, {.eviction = lru(), .capacity_blocks = 10});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->hit_blocks, 3u);
}

TEST(Replay, RequestsLongerThanTheCacheAreCut) {
  const std::string line = R"({"input_length":2048,"hash_ids":[1,2,3,4]})"
                           "\n";
  const Trace trace = trace_of(line + line);
  const auto result = replay(trace, {.eviction = lru(), .capacity_blocks = 3});
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_EQ(result->hit_blocks, 3u);
  EXPECT_EQ(result->accesses, 8u);
}

TEST(Replay, WhatTheQueueNeedsIsNotEvicted) {
  // One block is asked for every third time, between two that never come back: more than fit.
  std::string lines;
  for (int i = 0; i < 120; ++i) {
    lines += R"({"input_length":512,"hash_ids":[)" + std::to_string(i % 3 == 0 ? 7 : 100 + i) + "]}\n";
  }
  const Trace trace = trace_of(lines);
  const auto hits = [&](std::size_t queued) {
    const auto result = replay(trace, {.eviction = lru(), .capacity_blocks = 2, .queued_requests = queued});
    EXPECT_TRUE(result.ok()) << result.status().to_string();
    return result.ok() ? result->hit_blocks : 0;
  };
  EXPECT_EQ(hits(0), 0u);
  EXPECT_EQ(hits(1), 39u) << "known just when the second of the two needs room";
  EXPECT_EQ(hits(10), 39u);
}

TEST(Replay, TheQueueHelpsUnderPressure) {
  const Trace trace = trace_of(random_trace(1, {.requests = 2000}));
  const auto hits = [&](std::size_t queued) {
    return replay(trace, {.eviction = lru(), .capacity_blocks = 60, .queued_requests = queued}).value().hit_blocks;
  };
  EXPECT_GT(hits(30), hits(0) * 11 / 10);
  EXPECT_EQ(hits(1 << 16), hits(2000)) << "a queue beyond the trace's end";
}

TEST(Replay, RefusesCapacitiesThatNoCacheHas) {
  const Trace trace = trace_of(R"({"input_length":512,"hash_ids":[1]})");
  const auto none = replay(trace, {.eviction = lru(), .capacity_blocks = 0});
  EXPECT_EQ(none.status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(none.status().message(), "capacity_blocks is 0; it must be 1 to 1073741824");
  EXPECT_EQ(replay(trace, {.eviction = lru(), .capacity_blocks = (std::size_t{1} << 30) + 1}).status().code(),
            StatusCode::InvalidArgument);
}

TEST(Replay, TellsHowFarItIs) {
  const Trace trace = trace_of(random_trace(1, {.requests = 1000}));
  std::vector<std::size_t> told;
  ASSERT_TRUE(
      replay(trace, {.eviction = lru(), .capacity_blocks = 50}, [&](std::size_t done) { told.push_back(done); }).ok());
  EXPECT_EQ(told, (std::vector<std::size_t>{0, 256, 512, 768}));
}

}  // namespace
}  // namespace tiercel
