// Ranks that step together, around fake models: rank 0 has the step loop and the cache, the others do what they are
// told. Every step each rank compares with rank 0's what it wrote to its own blocks, so a missed copy, a wrong table or
// a lost step is seen where it happens.
#include "engine/ranked_model.h"

#include <thread>

#include <gtest/gtest.h>

#include "engine/rank_follower.h"
#include "ranks/tcp_communicator.h"
#include "tests/engine/step_loop_fixture.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

// Computes as FakeModel does, then asks all ranks what each sequence's last digest is, as read back from its blocks.
class FakeRank final : public ModelRunner {
 public:
  FakeRank(Communicator& communicator, std::size_t max_logit_rows)
      : communicator_(communicator), inner_(max_logit_rows) {}

  const ModelShape& shape() const override { return inner_.shape(); }
  const Fingerprint& fingerprint() const override { return inner_.fingerprint(); }
  ModelMemory memory() const override { return {}; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return {}; }
  std::size_t max_logit_rows() const override { return inner_.max_logit_rows(); }

  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    if (fails_next_step.exchange(false)) return Status::internal("planted failure");
    auto logits = inner_.step(chunks, arena);
    std::vector<std::uint64_t> digests;
    for (const SequenceChunk& chunk : chunks) {
      const std::size_t last = chunk.first_position + chunk.tokens.size() - 1;
      const std::byte* const block = arena + chunk.block_table[last / 8] * FakeModel::layout().block_bytes();
      std::memcpy(&digests.emplace_back(), block + last % 8 * sizeof(std::uint64_t), sizeof(std::uint64_t));
    }
    std::vector<std::uint64_t> all(digests.size() * communicator_.size());
    TIERCEL_RETURN_IF_ERROR(
        communicator_.all_gather(digests.data(), digests.size() * sizeof(std::uint64_t), all.data()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i] != all[i % digests.size()]) return Status::internal("ranks have different KV");
    }
    return logits;
  }

  std::atomic<bool> fails_next_step = false;

 private:
  Communicator& communicator_;
  FakeModel inner_;
};

// An engine of several ranks, as Engine::open() and Engine::serve_rank() put it together.
struct RankedEngine {
  static constexpr std::size_t kSequences = 16, kLogitRows = kSequences + 8;

  explicit RankedEngine(std::uint32_t size, std::uint64_t timeout_ms = 60'000, std::size_t blocks = 60)
      : followers(size - 1), statuses(size - 1), tokenizer(make_byte_tokenizer()) {
    const std::string address = free_address();
    for (std::uint32_t rank = 1; rank < size; ++rank) {
      threads.emplace_back([this, address, rank, size, timeout_ms] {
        auto communicator = open_tcp_communicator(rank_options(address, rank, size, timeout_ms)).value();
        FakeRank part(*communicator, kLogitRows);
        followers[rank - 1] = std::move(communicator);
        statuses[rank - 1] = follow_first_rank(*followers[rank - 1], part, FakeModel::layout());
      });
    }
    auto communicator = open_tcp_communicator(rank_options(address, 0, size, timeout_ms)).value();
    auto first = std::make_unique<FakeRank>(*communicator, kLogitRows);
    first_rank = first.get();
    model = std::make_unique<RankedModel>(std::move(communicator), std::move(first), timeout_ms / 3);
    cache.emplace(KvCache::open({.capacity_bytes = blocks * FakeModel::layout().block_bytes()}, FakeModel::layout(),
                                model->fingerprint())
                      .value());
    EXPECT_TRUE(model->begin(blocks).ok());
    cache->observe_copies([this](BlockId from, BlockId to, std::size_t tokens) {
      ++copies;
      model->copy_block(from, to, tokens);
    });
    stats.emplace(StatsOptions{});
    loop.emplace(
        StepLoopOptions{.limits = {.max_sequences = kSequences, .max_tokens = 64, .max_logit_rows = kLogitRows}},
        *model, *cache, tokenizer, *stats);
  }
  ~RankedEngine() { leave(); }

  void leave() {
    loop.reset();
    model->end();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  ResponseFuture ask(const std::string& text, std::uint32_t max_tokens, std::uint32_t n = 1) {
    Request request{.text = text, .max_tokens = max_tokens};
    request.n = n;
    if (n > 1) request.sampling.temperature = 0.01f;  // all but greedy
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096}).value();
    auto choices = make_sequences(std::move(request), std::move(prompt), 4096, Sequence::Clock::now());
    ResponseFuture future(choices.front()->promise);
    loop->submit(std::move(choices));
    return future;
  }

  std::atomic<std::size_t> copies = 0;
  std::vector<std::unique_ptr<Communicator>> followers;  // each its thread's, until an answer was given
  std::vector<Status> statuses;
  std::vector<std::thread> threads;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  FakeRank* first_rank;
  std::unique_ptr<RankedModel> model;
  std::optional<KvCache> cache;
  std::optional<StatsRecorder> stats;
  std::optional<StepLoop> loop;
};

std::vector<TokenId> expected(const std::string& text, std::size_t max_tokens) {
  return FakeModel::expected_output({text.begin(), text.end()}, max_tokens);
}

// Prompts that begin alike to within a block, so that partly equal blocks are copied, in a cache that has to evict.
TEST(RankedModel, AnswersAreThoseOfOneRankWhateverIsSharedCopiedAndForked) {
  for (const std::uint32_t size : {2u, 3u}) {
    RankedEngine engine(size);
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
      ASSERT_EQ(answer->tokens, expected(text, max_tokens)) << text;
    }
    const KvCacheStats stats = engine.cache->stats();
    EXPECT_GT(engine.copies, 5u);
    EXPECT_GT(stats.evicted_blocks, 50u);
    engine.leave();
    for (const Status& status : engine.statuses) EXPECT_TRUE(status.ok()) << status.to_string();
  }
}

TEST(RankedModel, RanksThatHaveNothingToDoStayForAsLongAsRankZeroIsThere) {
  RankedEngine engine(2, /*timeout_ms=*/150);
  ASSERT_TRUE(engine.ask("hello", 5).get().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_EQ(engine.ask("hello again", 5).get()->tokens, expected("hello again", 5));
  engine.leave();
  EXPECT_TRUE(engine.statuses[0].ok()) << engine.statuses[0].to_string();
}

TEST(RankedModel, ALostRankFailsWhatRunsAndWhatComesLater) {
  RankedEngine engine(3, /*timeout_ms=*/2000);
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
  RankedEngine engine(2, /*timeout_ms=*/300);
  ASSERT_TRUE(engine.ask("hello", 5).get().ok());
  engine.followers[0]->abort();
  engine.threads[0].join();
  engine.threads.clear();
  EXPECT_EQ(engine.statuses[0].code(), StatusCode::Cancelled);
  // Seen by a sign of life or by this step.
  EXPECT_FALSE(engine.ask("hello", 5).get().ok());
}

TEST(RankedModel, AFailedStepOfRankZeroSendsTheOthersHome) {
  RankedEngine engine(3);
  engine.first_rank->fails_next_step = true;
  const auto answer = engine.ask("hello", 5).get();
  EXPECT_EQ(answer.status().code(), StatusCode::Internal);
  EXPECT_NE(answer.status().message().find("planted failure"), std::string::npos) << answer.status().to_string();
  engine.leave();
  for (const Status& status : engine.statuses) {
    EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
  }
}

TEST(RankMessages, AStepComesBackAsItWas) {
  const std::vector<TokenId> first_tokens = {1, 2, 3}, second_tokens = {4};
  const std::vector<BlockId> first_blocks = {7, 0}, second_blocks = {5};
  const SequenceChunk chunks[] = {{.tokens = first_tokens, .first_position = 6, .block_table = first_blocks},
                                  {.tokens = second_tokens,
                                   .first_position = 0,
                                   .block_table = second_blocks,
                                   .logits = Logits::All,
                                   .arithmetic = Arithmetic::Decode}};
  const BlockCopy copies[] = {{.from = 3, .to = 4, .tokens = 5}};
  std::vector<std::byte> bytes;
  write_step(copies, chunks, bytes);
  RankStep step;
  ASSERT_TRUE(read_step(bytes, 8, 5, step).ok());
  ASSERT_EQ(step.copies.size(), 1u);
  EXPECT_EQ(step.copies[0].from, 3u);
  EXPECT_EQ(step.copies[0].to, 4u);
  EXPECT_EQ(step.copies[0].tokens, 5u);
  ASSERT_EQ(step.chunks.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(std::ranges::equal(step.chunks[i].tokens, chunks[i].tokens));
    EXPECT_TRUE(std::ranges::equal(step.chunks[i].block_table, chunks[i].block_table));
    EXPECT_EQ(step.chunks[i].first_position, chunks[i].first_position);
    EXPECT_EQ(step.chunks[i].logits, chunks[i].logits);
    EXPECT_EQ(step.chunks[i].arithmetic, chunks[i].arithmetic);
  }
  EXPECT_FALSE(read_step(bytes, 7, 5, step).ok()) << "block 7 of 7";
  EXPECT_FALSE(read_step(bytes, 8, 4, step).ok()) << "token 4 of 4";
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    EXPECT_FALSE(read_step(std::span(bytes).first(cut), 8, 5, step).ok());
  }
}

}  // namespace
}  // namespace tiercel
