// Ranks that step together, around fake models: rank 0 has the step loop and the cache, the others do what they are
// told.
#include "engine/ranked_model.h"

#include <thread>

#include <gtest/gtest.h>

#include "kv/block_arena.h"
#include "tests/engine/ranked_engine.h"

namespace tiercel {
namespace {

// Prompts that begin alike to within a block, so that partly equal blocks are copied, in a cache that has to evict.
TEST(RankedModel, AnswersAreThoseOfOneRankWhateverIsSharedCopiedAndForked) {
  for (const std::uint32_t size : {2u, 3u}) {
    RankedEngine engine({.size = size});
    const std::string stem = "The harbour at dawn is quiet, and the boats come in one by one with their crates.";
    std::mt19937 random(size);
    std::vector<std::tuple<std::string, std::size_t, ResponseFuture>> asked;
    for (int i = 0; i < 300; ++i) {
      std::string text = stem.substr(0, 1 + random() % stem.size()) + std::to_string(random() % 10);
      const std::size_t max_tokens = 1 + random() % 30;
      ResponseFuture answer = engine.ask(text, static_cast<std::uint32_t>(max_tokens), 1 + random() % 3);
      asked.emplace_back(std::move(text), max_tokens, std::move(answer));
    }
    for (auto& [text, max_tokens, future] : asked) {
      const auto answer = future.get();
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      ASSERT_EQ(answer->tokens, expected_answer(text, max_tokens)) << text;
    }
    const KvCacheStats stats = engine.cache->stats();
    EXPECT_GT(engine.copies, 5u);
    EXPECT_GT(stats.evicted_blocks, 50u);
    engine.leave();
    for (const Status& status : engine.statuses) EXPECT_TRUE(status.ok()) << status.to_string();
  }
}

TEST(RankedModel, RanksThatHaveNothingToDoStayForAsLongAsRankZeroIsThere) {
  RankedEngine engine({.timeout_ms = 1000});
  ASSERT_TRUE(engine.ask("hello", 5).get().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  EXPECT_EQ(engine.ask("hello again", 5).get()->tokens, expected_answer("hello again", 5));
  engine.leave();
  EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
}

TEST(RankedModel, ALostRankFailsWhatRunsAndWhatComesLater) {
  RankedEngine engine({.size = 3, .timeout_ms = 10'000});
  ASSERT_TRUE(engine.ask("hello", 5).get().ok());
  engine.followers[1]->abort();
  const auto answer = engine.ask("hello once more", 50).get();
  ASSERT_FALSE(answer.ok());
  EXPECT_TRUE(answer.status().code() == StatusCode::Unavailable ||
              answer.status().code() == StatusCode::DeadlineExceeded)
      << answer.status().to_string();
  EXPECT_NE(answer.status().message().find("open it and them anew"), std::string::npos) << answer.status().to_string();
  EXPECT_EQ(engine.ask("and again", 5).get().status().code(), answer.status().code());
  engine.leave();
  for (const Status& status : engine.statuses) EXPECT_FALSE(status.ok());
}

TEST(RankedModel, AnIdleEngineNoticesALostRankByItself) {
  RankedEngine engine({.timeout_ms = 2000});
  ASSERT_TRUE(engine.ask("hello", 5).get().ok());
  engine.followers[0]->abort();
  engine.threads[0].join();
  engine.threads.clear();
  EXPECT_EQ(engine.statuses[0].code(), StatusCode::Cancelled);
  // Seen by a sign of life or by this step.
  EXPECT_FALSE(engine.ask("hello", 5).get().ok());
}

TEST(RankedModel, AFailedStepOfRankZeroSendsTheOthersHome) {
  RankedEngine engine({.size = 3});
  engine.first_rank->fails_next_step = true;
  const auto answer = engine.ask("hello", 5).get();
  EXPECT_EQ(answer.status().code(), StatusCode::Internal);
  EXPECT_NE(answer.status().message().find("planted failure"), std::string::npos) << answer.status().to_string();
  engine.leave();
  for (const Status& status : engine.statuses) {
    EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
  }
  EXPECT_EQ(engine.left, 3u);
}

TEST(RankedModel, ARankWithoutRoomForTheBlocksIsNoticedBeforeTheFirstStep) {
  std::size_t asked = 0;
  RankedEngine engine({.blocks = 37, .reserve = [&](std::size_t blocks) {
                         asked = blocks;
                         return Status::resource_exhausted("no room");
                       }});
  EXPECT_EQ(engine.begun.code(), StatusCode::Unavailable) << engine.begun.to_string();
  engine.leave();
  EXPECT_EQ(engine.statuses[0].code(), StatusCode::ResourceExhausted) << engine.statuses[0].to_string();
  EXPECT_EQ(asked, 37u);
}

TEST(RankedModel, BlocksAreWhereARankReservesThem) {
  std::shared_ptr<const BlockMemory> memory;
  RankedEngine engine({.reserve = [&](std::size_t blocks) -> Result<std::shared_ptr<const BlockMemory>> {
    memory = std::make_shared<BlockArena>(BlockArena::reserve(blocks, FakeModel::layout().block_bytes()).value());
    return memory;
  }});
  ASSERT_TRUE(engine.begun.ok());
  EXPECT_EQ(engine.ask("hello", 5).get()->tokens, expected_answer("hello", 5));
  engine.leave();
  const std::span bytes(memory->block(0), memory->bytes());
  EXPECT_TRUE(std::ranges::any_of(bytes, [](std::byte byte) { return byte != std::byte{0}; }));
  EXPECT_EQ(engine.computed_over[0], memory.get()) << "its model does not know of it";
  engine.model->compute_over(*memory);
  EXPECT_EQ(engine.first_rank->computes_over, memory.get()) << "nor does the first one's";
}

TEST(RankMessages, AStepComesBackAsItWas) {
  const std::vector<TokenId> first_tokens = {1, 2, 3}, second_tokens = {4};
  const std::vector<BlockId> first_blocks = {7, 0}, second_blocks = {5};
  const kernels::SamplingRow draws[3] = {};
  const SequenceChunk chunks[] = {
      {.tokens = first_tokens, .first_position = 6, .block_table = first_blocks},
      {.tokens = second_tokens,
       .first_position = 0,
       .block_table = second_blocks,
       .logits = Logits::All,
       .arithmetic = Arithmetic::Decode,
       .any_attention = true},
      {.tokens = second_tokens,
       .block_table = second_blocks,
       .logits = Logits::Last,
       .draws = std::span(draws).first(1)},
      {.tokens = first_tokens, .block_table = first_blocks, .logits = Logits::All, .draws = draws}};
  const BlockCopy copies[] = {{.from = 3, .to = 4, .tokens = 5}};
  std::vector<std::byte> bytes;
  write_step(copies, chunks, bytes);
  RankStep step;
  ASSERT_TRUE(read_step(bytes, 8, 5, step).ok());
  ASSERT_EQ(step.copies.size(), 1u);
  EXPECT_EQ(step.copies[0].from, 3u);
  EXPECT_EQ(step.copies[0].to, 4u);
  EXPECT_EQ(step.copies[0].tokens, 5u);
  ASSERT_EQ(step.chunks.size(), std::size(chunks));
  for (std::size_t i = 0; i < std::size(chunks); ++i) {
    EXPECT_TRUE(std::ranges::equal(step.chunks[i].tokens, chunks[i].tokens));
    EXPECT_TRUE(std::ranges::equal(step.chunks[i].block_table, chunks[i].block_table));
    EXPECT_EQ(step.chunks[i].first_position, chunks[i].first_position);
    EXPECT_EQ(step.chunks[i].logits, chunks[i].logits);
    EXPECT_EQ(step.chunks[i].arithmetic, chunks[i].arithmetic);
    EXPECT_EQ(step.chunks[i].any_attention, chunks[i].any_attention);
    EXPECT_EQ(step.chunks[i].draws.size(), chunks[i].draws.size());
  }
  EXPECT_FALSE(read_step(bytes, 7, 5, step).ok()) << "block 7 of 7";
  EXPECT_FALSE(read_step(bytes, 8, 4, step).ok()) << "token 4 of 4";
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    EXPECT_FALSE(read_step(std::span(bytes).first(cut), 8, 5, step).ok());
  }
  const SequenceChunk without_tokens = {.tokens = {}, .first_position = 0, .block_table = first_blocks};
  write_step({}, {&without_tokens, 1}, bytes);
  EXPECT_FALSE(read_step(bytes, 8, 5, step).ok());
}

}  // namespace
}  // namespace tiercel
