// An engine of several ranks around fake models, the ranks as threads, each with tiers of its own where a test gives
// them. In every step the ranks compare all KV that its sequences have: a missed copy, a wrong table, a lost step, or a
// block that a tier gave to one rank and not to another, is seen where it happens.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/rank_follower.h"
#include "engine/ranked_model.h"
#include "engine/ranked_store.h"
#include "kv/block_memory.h"
#include "ranks/rank_links.h"
#include "ranks/tcp_communicator.h"
#include "tests/engine/step_loop_fixture.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {

class FakeRank final : public ModelRunner {
 public:
  // `is_late`: what a step computes is in its blocks only some time after the other ranks have all they need of it.
  FakeRank(Communicator& communicator, std::size_t max_logit_rows, bool is_late = false)
      : communicator_(communicator), is_late_(is_late), inner_(max_logit_rows) {}

  const ModelShape& shape() const override { return inner_.shape(); }
  const Fingerprint& fingerprint() const override { return inner_.fingerprint(); }
  ModelMemory memory() const override { return {}; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return {}; }
  std::size_t max_logit_rows() const override { return inner_.max_logit_rows(); }

  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    if (fails_next_step.exchange(false)) return Status::internal("planted failure");
    auto logits = inner_.step(chunks, arena);
    for (const SequenceChunk& chunk : chunks)
      pretended_us_ += (kPretended - 1) * inner_.token_time.count() * static_cast<long>(chunk.tokens.size());
    std::vector<std::uint64_t> sums;  // of each sequence, over what all its tokens left in the blocks
    for (const SequenceChunk& chunk : chunks) {
      std::uint64_t& sum = sums.emplace_back();
      for (std::size_t i = 0; i < chunk.first_position + chunk.tokens.size(); ++i) {
        std::uint64_t digest = 0;
        std::memcpy(&digest, place(chunk, i, arena), sizeof digest);
        sum = sum * 31 + digest;
      }
    }
    std::vector<std::uint64_t> all(sums.size() * communicator_.size());
    TIERCEL_RETURN_IF_ERROR(communicator_.all_gather(sums.data(), sums.size() * sizeof(std::uint64_t), all.data()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i] != all[i % sums.size()]) return Status::internal("ranks have different KV");
    }
    if (is_late_) come_late(chunks, arena);
    return logits;
  }

  void compute_over(const BlockMemory& memory) override { computes_over = &memory; }
  const BlockMemory* computes_over = nullptr;  // nobody has said

  void leave_ranks() override { on_leave(); }
  std::function<void()> on_leave = [] {};

  // Before the first step. To the engine computing seems kPretended times as long as it is, so that what else the
  // machine does is no reason to compute what a tier has.
  void set_token_time(std::chrono::microseconds time) { inner_.token_time = time; }
  // What was not taken of it, by all steps together.
  std::chrono::microseconds pretended_time() const { return std::chrono::microseconds(pretended_us_); }

  std::atomic<bool> fails_next_step = false;

 private:
  static std::byte* place(const SequenceChunk& chunk, std::size_t position, std::byte* arena) {
    return arena + chunk.block_table[position / 8] * BlockMemory::stride_of(FakeModel::layout().block_bytes()) +
           position % 8 * sizeof(std::uint64_t);
  }
  static void come_late(std::span<const SequenceChunk> chunks, std::byte* arena) {
    std::vector<std::pair<std::byte*, std::uint64_t>> computed;
    for (const SequenceChunk& chunk : chunks) {
      for (std::size_t i = 0; i < chunk.tokens.size(); ++i) {
        auto& [to, digest] = computed.emplace_back(place(chunk, chunk.first_position + i, arena), 0);
        std::memcpy(&digest, to, sizeof digest);
        std::memset(to, 0, sizeof digest);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    for (const auto& [to, digest] : computed) std::memcpy(to, &digest, sizeof digest);
  }

  Communicator& communicator_;
  const bool is_late_;
  FakeModel inner_;
  static constexpr long kPretended = 25;
  std::atomic<long> pretended_us_ = 0;
};

// An engine of several ranks, as Engine::open() and Engine::serve_rank() put it together.
struct RankedEngine {
  static constexpr std::size_t kSequences = 16, kLogitRows = kSequences + 8;
  using Stores = std::vector<std::shared_ptr<TierStore>>;

  struct Options {
    std::uint32_t size = 2;
    std::uint64_t timeout_ms = 60'000;
    std::size_t blocks = 60;
    std::vector<Stores> tiers = {};  // of each rank, alike
    std::uint64_t tier_deadline_ms = 60'000;
    bool followers_are_late = false;
    ReserveBlocks reserve = {};  // of followers
  };

  RankedEngine() : RankedEngine(Options()) {}
  explicit RankedEngine(const Options& options)
      : followers(options.size - 1),
        statuses(options.size - 1),
        computed_over(options.size - 1),
        tokenizer(make_byte_tokenizer()) {
    const std::string address = free_address();
    const std::size_t tiers = options.tiers.empty() ? 0 : options.tiers.front().size();
    for (std::uint32_t rank = 1; rank < options.size; ++rank) {
      threads.emplace_back([this, address, rank, tiers, options] {
        const auto of_rank = rank_options(address, rank, options.size, options.timeout_ms);
        auto communicator = open_tcp_communicator(of_rank).value();
        auto links = link_with_first(*communicator, address, tiers, of_rank.open_timeout_ms).value();
        FakeRank part(*communicator, kLogitRows, options.followers_are_late);
        part.on_leave = [this] { ++left; };
        std::vector<Result<std::shared_ptr<TierStore>>> stores;
        for (std::size_t i = 0; i < tiers; ++i) stores.push_back(options.tiers[rank][i]);
        RankTierServer server(std::move(stores), std::move(links.front()), FakeModel::layout(), part.fingerprint());
        followers[rank - 1] = std::move(communicator);
        statuses[rank - 1] =
            follow_first_rank(*followers[rank - 1], part, FakeModel::layout(), &server, options.reserve);
        computed_over[rank - 1] = part.computes_over;
      });
    }
    const auto of_rank = rank_options(address, 0, options.size, options.timeout_ms);
    auto communicator = open_tcp_communicator(of_rank).value();
    auto links = link_with_first(*communicator, address, tiers, of_rank.open_timeout_ms).value();
    auto first = std::make_unique<FakeRank>(*communicator, kLogitRows);
    first_rank = first.get();
    first->on_leave = [this] { ++left; };
    model = std::make_unique<RankedModel>(std::move(communicator), std::move(first),
                                          std::max<std::uint64_t>(1, options.timeout_ms / 3));
    KvCacheOptions cache_options{.capacity_bytes = options.blocks * FakeModel::layout().block_bytes(),
                                 .tier_deadline_ms = options.tier_deadline_ms};
    for (std::size_t i = 0; i < tiers; ++i) {
      std::vector<Socket> of_tier;
      for (auto& of_peer : links) of_tier.push_back(std::move(of_peer[i]));
      cache_options.tiers.push_back(
          std::make_shared<RankedStore>(options.tiers[0][i], std::move(of_tier), model->progress()));
    }
    cache.emplace(KvCache::open(cache_options, FakeModel::layout(), model->fingerprint()).value());
    begun = model->begin(options.blocks);
    EXPECT_TRUE(begun.ok() || options.reserve) << begun.to_string();
    cache->observe_copies([this](BlockId from, BlockId to, std::size_t tokens) {
      ++copies;
      model->copy_block(from, to, tokens);
    });
    std::vector<std::string> tier_names;
    for (const KvTierStats& tier : cache->stats().tiers) tier_names.push_back(tier.name);
    stats.emplace(StatsOptions{.tier_names = tier_names});
    loop.emplace(
        StepLoopOptions{.limits = {.max_sequences = kSequences, .max_tokens = 64, .max_logit_rows = kLogitRows},
                        .tier_names = tier_names,
                        .now = [rank = first_rank] { return Sequence::Clock::now() + rank->pretended_time(); }},
        *model, *cache, tokenizer, *stats);
  }
  ~RankedEngine() { leave(); }

  // As Engine's end.
  void leave() {
    loop.reset();
    if (cache) static_cast<void>(cache->flush(500));
    model->end();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  ResponseFuture ask(const std::string& text, std::uint32_t max_tokens, std::uint32_t n = 1) {
    Request request{.text = text, .max_tokens = max_tokens};
    request.n = n;
    if (n > 1) request.sampling.temperature = 0.01f;  // all but greedy
    return ask(std::move(request));
  }
  ResponseFuture ask(Request request) {
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096}).value();
    auto choices = make_sequences(std::move(request), std::move(prompt), 4096, Sequence::Clock::now());
    ResponseFuture future(choices.front()->promise);
    loop->submit(std::move(choices));
    return future;
  }

  std::atomic<std::size_t> copies = 0;
  std::atomic<std::size_t> left = 0;  // models that were told that their ranks leave
  Status begun;
  std::vector<std::unique_ptr<Communicator>> followers;  // each its thread's, until an answer was given
  std::vector<Status> statuses;
  std::vector<const BlockMemory*> computed_over;  // by followers that have left
  std::vector<std::thread> threads;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  FakeRank* first_rank;
  std::unique_ptr<RankedModel> model;
  std::optional<KvCache> cache;
  std::optional<StatsRecorder> stats;
  std::optional<StepLoop> loop;
};

inline std::vector<TokenId> expected_answer(const std::string& text, std::size_t max_tokens) {
  return FakeModel::expected_output({text.begin(), text.end()}, max_tokens);
}

}  // namespace tiercel
